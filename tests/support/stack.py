"""A gateway in this process on a real port, in front of a scripted upstream; and a raw client for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import orjson
import uvloop

from llm_bridge.config.schema import Config, ModelEntry
from llm_bridge.gateway.app import Gateway
from llm_bridge.models.pool import Pool
from llm_bridge.settings import Bind, Settings, load
from llm_bridge.wire.connection import Limits
from llm_bridge.wire.guard import Guard
from llm_bridge.wire.server import Server
from tests.support import upstream

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], seconds: float = 60) -> T:
    """Run a test's coroutine on the loop the product uses, at most `seconds`."""
    return uvloop.run(asyncio.wait_for(work, seconds))


@dataclass
class Stack:
    server: Server
    upstream: upstream.Upstream
    pool: Pool

    @property
    def port(self) -> int:
        return self.server.port


@contextlib.asynccontextmanager
async def gateway(
    script: upstream.Script, limits: Limits | None = None, patience: float | None = None, **settings: Any
) -> AsyncIterator[Stack]:
    async with upstream.serving(script) as peer:
        values: Settings = replace(load({}), **settings)
        base = f"http://127.0.0.1:{peer.port}/v1"
        entry = ModelEntry("gpt", "openai", "gpt-real", base, "sk-canary-provider-key", patience, patience)
        pool = Pool(values)
        pool.configure(Config((entry,), "r1", {}))
        server = Server(Gateway(values, pool, lambda: True), Guard(), limits)
        await server.start(Bind("127.0.0.1", 0))
        try:
            yield Stack(server, peer, pool)
        finally:
            await server.drain(0)
            await pool.close()


def post(body: object, path: str = "/v1/chat/completions", extra: str = "") -> bytes:
    """A POST as bytes; `body` is JSON unless it is bytes already."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(data)}\r\n{extra}\r\n"
    ).encode() + data


CHAT = {"model": "gpt", "messages": [{"role": "user", "content": "こんにちは"}]}
STREAM = {**CHAT, "stream": True}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool
    """The framing says it is complete."""

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error = self.json["error"]
        assert isinstance(error, dict)
        return error


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:-2])}
    body, whole = b"", True
    try:
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
    except asyncio.IncompleteReadError as broken:
        body, whole = body + broken.partial, False
    return Answer(int(head[0].split()[1]), headers, body, whole)


async def ask(port: int, *requests: bytes) -> Answer:
    """Send requests on one connection and return the last answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for request in requests:
            writer.write(request)
            answer = await read_answer(reader)
        return answer
    finally:
        writer.close()
