"""Both listeners as they are served, and a client that sends exact bytes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from llm_bridge.settings import Bind
from llm_bridge.wire.asgi import AsgiApp
from llm_bridge.wire.connection import Limits
from llm_bridge.wire.guard import Guard
from llm_bridge.wire.keys import KeyCheck
from llm_bridge.wire.server import Server
from tests.support import upstream as up
from tests.support.stack import gateway


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that answers what it was sent."""
    message = await receive()
    headers = [(b"content-type", b"text/plain"), (b"x-path", scope["raw_path"])]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": message["body"]})


@contextlib.asynccontextmanager
async def listeners(
    limits: Limits | None = None, max_body: int = 1 << 20, key: str = ""
) -> AsyncIterator[dict[str, Server]]:
    """The gateway's listener and the management API's."""
    async with gateway(up.whole(up.ANSWER), limits, max_body=max_body, api_key=key) as stack:
        check = KeyCheck(key, "LLM_BRIDGE_ADMIN_KEY")
        admin = Server(AsgiApp(echo, lambda head: check(head.fields), max_body, "ja"), Guard(), limits)
        await admin.start(Bind("127.0.0.1", 0))
        try:
            yield {"gateway": stack.server, "management": admin}
        finally:
            await admin.drain(0)


async def exchange(port: int, data: bytes, wait: float = 5.0) -> bytes:
    """Send bytes, then read until the server closes or `wait` seconds pass."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        writer.write(data)
        async with asyncio.timeout(wait):
            while piece := await reader.read(65536):
                received += piece
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    return received


def status(answer: bytes) -> int:
    """The status of the first answer; 0 when the connection ended without one."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
