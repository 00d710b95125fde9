"""A scripted upstream: for the faults that a healthy engine cannot be made to show."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import orjson


@dataclass
class Request:
    head: bytes
    body: bytes

    @property
    def document(self) -> dict[str, object]:
        document = orjson.loads(self.body)
        assert isinstance(document, dict)
        return document


Script = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Upstream:
    """Answers every request with `script`; keeps what it was asked and when a client left it."""

    script: Script
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    handlers: set[asyncio.Task[None]] = field(default_factory=set)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def asked(self, times: int) -> None:
        """Wait until that many requests have arrived."""
        async with self.news:
            await self.news.wait_for(lambda: len(self.requests) >= times)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        self.handlers.add(cast("asyncio.Task[None]", asyncio.current_task()))
        tasks: tuple[asyncio.Future[Any], ...] = ()
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or b"0")
                request = Request(head, await reader.readexactly(length))
                self.requests.append(request)
                async with self.news:
                    self.news.notify_all()
                work = asyncio.ensure_future(self.script(request, writer))
                gone = asyncio.ensure_future(reader.read(1))
                tasks = (work, gone)
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                broken = work.done() and work.exception() is not None
                if not work.done() or broken:
                    self.left.set()
                    break
                gone.cancel()
                await asyncio.gather(gone, return_exceptions=True)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            writer.transport.abort()


@contextlib.asynccontextmanager
async def serving(script: Script) -> AsyncIterator[Upstream]:
    upstream = Upstream(script)
    server = await asyncio.start_server(upstream.handle, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for writer in upstream.writers:
            writer.transport.abort()
        if upstream.handlers:
            await asyncio.wait(upstream.handlers, timeout=5)


def whole(body: bytes, status: str = "200 OK", content_type: str = "application/json", extra: str = "") -> Script:
    """A complete answer."""

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(
            f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n{extra}\r\n".encode()
            + body
        )
        await writer.drain()

    return script


JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
EVENTS_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def events(*pieces: bytes, pause: float = 0.0) -> Script:
    """A stream of server-sent events in the given pieces, ended properly."""

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENTS_HEAD)
        for piece in pieces:
            writer.write(chunk(piece))
            await writer.drain()
            await asyncio.sleep(pause)
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    return script


def cut(data: bytes) -> Script:
    """Exactly these bytes, then the end of the connection."""

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.transport.close()

    return script


def then_silence(data: bytes = b"") -> Script:
    """These bytes, then nothing, for ever."""

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        await asyncio.get_running_loop().create_future()

    return script


def delta(text: str) -> bytes:
    """One chat completion chunk as an event."""
    return b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}) + b"\n\n"


DONE = b"data: [DONE]\n\n"
ANSWER = orjson.dumps({"object": "chat.completion", "choices": [{"message": {"role": "assistant", "content": "はい"}}]})
