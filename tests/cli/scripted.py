"""A small HTTP server that answers exactly the bytes a test wrote, packet by packet."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

PACKET_GAP = 0.003  # long enough for the client to see two packets, short enough for hundreds of them


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Scripted:
    """`reply` holds the packets of the answer by (method, path); anything else is answered 404, empty."""

    reply: dict[tuple[str, str], list[bytes]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    hold: float = 0.0
    """Seconds to keep the connection open and silent after the last packet."""

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.hung_up = threading.Event()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end.set()
        with socket.create_connection(("127.0.0.1", self.port)):
            pass  # wakes accept()
        self._thread.join(10)
        self.listener.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while not self._end.is_set():
            connection, _ = self.listener.accept()
            with connection, suppress(OSError):  # a client that was killed is no failure of the script
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(10)
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as reader:
            line = reader.readline().decode()
            if not line:
                return
            method, path, _ = line.split(" ", 2)
            headers = {}
            while (line := reader.readline().decode().strip()) != "":
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = reader.read(int(headers.get("content-length", 0)))
        self.requests.append(Request(method, path, headers, body))
        packets = self.reply.get((method, path), answer(404, b"", "text/plain"))
        try:
            for packet in packets:
                connection.sendall(packet)
                time.sleep(PACKET_GAP)
            self._wait_for_hang_up(connection)
        except OSError:
            self.hung_up.set()

    def _wait_for_hang_up(self, connection: socket.socket) -> None:
        connection.settimeout(0.05)
        end = time.monotonic() + self.hold
        while time.monotonic() < end and not self._end.is_set():
            try:
                if connection.recv(1) == b"":
                    self.hung_up.set()
                    return
            except TimeoutError:
                continue


def answer(status: int, body: bytes | dict[str, Any] | list[Any], kind: str = "application/json") -> list[bytes]:
    """A whole answer in one packet."""
    data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\nconnection: close\r\n\r\n"
    return [head.encode() + data]


def openai_error(status: int, message: str, code: str) -> list[bytes]:
    return answer(status, {"error": {"message": message, "type": "x", "param": None, "code": code}})


def event(text: str) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def stream(*parts: bytes, size: int = 0, ended: bool = True) -> list[bytes]:
    """An event stream in chunked framing; `size` cuts it into chunks (and packets) of that many bytes."""
    data = b"".join(parts)
    cut: Iterable[bytes] = [data[i : i + size] for i in range(0, len(data), size)] if size else [p for p in parts if p]
    chunks = [f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in cut]
    return [STREAM_HEAD, *chunks, *([b"0\r\n\r\n"] if ended else [])]


def closed_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port: int = unused.getsockname()[1]
    return port
