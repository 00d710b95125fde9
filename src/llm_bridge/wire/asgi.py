"""An ASGI application behind our own edge (ASGI 3.0, http scope only).

The management API is a FastAPI app, but the bytes of its port are parsed, limited and checked by the same code as the
gateway's: one set of rules for framing, Host, Origin, sizes and deadlines, proved once. The client's hang-up cancels
the application's task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from llm_bridge.errors import BridgeError, Lang, render_detail
from llm_bridge.wire.exchange import JSON, Exchange, Handler
from llm_bridge.wire.head import Head

Message = MutableMapping[str, Any]
Application = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

_OURS = frozenset((b"content-type", b"content-length", b"transfer-encoding", b"connection", b"x-content-type-options"))


class AsgiApp:
    """Serves `app` as an `exchange.App`.

    Args:
        authorise: called with every head before its body is read; raises BridgeError to refuse.
        max_body: bytes.
    """

    def __init__(self, app: Application, authorise: Callable[[Head], None], max_body: int, lang: Lang) -> None:
        self._app = app
        self._authorise = authorise
        self._max_body = max_body
        self._lang = lang

    def route(self, head: Head) -> tuple[Handler, int]:
        self._authorise(head)
        return self._handle, self._max_body

    def render(self, head: Head | None, error: BridgeError) -> tuple[bytes, bytes]:
        return render_detail(error, head.lang(self._lang) if head else self._lang), JSON

    async def _handle(self, exchange: Exchange) -> None:
        head = exchange.head
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": head.version,
            "method": head.method,
            "scheme": "http",
            "path": unquote_to_bytes(head.path).decode("utf-8", "replace"),
            "raw_path": head.path.encode("ascii"),
            "query_string": head.query,
            "root_path": "",
            "headers": list(head.fields.items()),
            "client": (head.peer, 0),
            "server": None,
            "state": {"request_id": exchange.id},
        }
        answer = _Answer(exchange)
        await self._app(scope, _receiver(exchange.body), answer.send)
        answer.end()


def _receiver(body: bytes) -> Callable[[], Awaitable[Message]]:
    given = False

    async def receive() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.get_running_loop().create_future()  # the end of the client cancels the task that waits here
        raise AssertionError

    return receive


class _Answer:
    """Turns ASGI's response messages into one answer: whole where it is whole, chunked where it comes in pieces."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._status = 0
        self._type = JSON
        self._lines = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = list(message.get("headers", ()))
            self._type = next((value for name, value in headers if name.lower() == b"content-type"), b"text/plain")
            self._lines = b"".join(b"%b: %b\r\n" % (n, v) for n, v in headers if n.lower() not in _OURS)
            return
        if message["type"] != "http.response.body":
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if not self._exchange.started and not more:
            self._exchange.send(self._status, self._type, body, self._lines)
            return
        if not self._exchange.started:
            self._exchange.begin(self._status, self._type, self._lines)
        await self._exchange.write(body)
        if not more:
            self._exchange.finish()

    def end(self) -> None:
        """The application returned: an answer that was begun and not ended stays visibly unfinished."""
        if not self._exchange.started:
            raise RuntimeError("the application gave no answer")
