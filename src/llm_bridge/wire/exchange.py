"""One request and the one answer it gets: the narrow door between handlers and the connection.

Whatever happens, an exchange ends in exactly one of: a complete response, a stream with exactly one terminal event, or
a closed connection. Handlers raise; `fail` turns the error into the first of these that is still possible.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from llm_bridge.errors import BridgeError
from llm_bridge.wire.head import Head

if TYPE_CHECKING:
    from llm_bridge.wire.connection import Connection

Handler = Callable[["Exchange"], Awaitable[None]]

REASONS = {
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "No Content",
    304: "Not Modified",
    307: "Temporary Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    507: "Insufficient Storage",
}
JSON = b"application/json"
EVENTS = b"text/event-stream"
_EMPTY = (204, 304)  # have no body, and a length would speak of another answer (RFC 9110 8.6)
_STATUS = {code: f"HTTP/1.1 {code} {reason}\r\n".encode() for code, reason in REASONS.items()}


def status_line(status: int) -> bytes:
    return _STATUS.get(status) or b"HTTP/1.1 %d \r\n" % status


class App(Protocol):
    """What a listener serves."""

    def route(self, head: Head) -> tuple[Handler, int]:
        """The handler for a request and the largest body it takes, in bytes. Called before the body is read.

        Raises:
            BridgeError: no such route, not allowed, not authorised.
        """

    def render(self, head: Head | None, error: BridgeError) -> tuple[bytes, bytes]:
        """(body, content type) of an error answer, in the envelope of the surface that was asked."""


class Exchange:
    """A request (`head`, `body`) and the way to answer it."""

    __slots__ = ("_chunked", "_connection", "body", "failed", "finished", "head", "id", "started", "status", "terminal")

    def __init__(self, connection: Connection, head: Head, body: bytes, request_id: str) -> None:
        self._connection = connection
        self._chunked = False
        self.head = head
        self.body = body
        self.id = request_id
        self.status = 0
        self.started = self.finished = False
        self.failed: BridgeError | None = None
        self.terminal: Callable[[BridgeError], bytes] | None = None
        """Set by a handler that streams: renders the terminal event for an error in the middle of the stream."""

    def send(self, status: int, content_type: bytes, body: bytes, headers: bytes = b"") -> None:
        """A complete answer. `headers` are ready lines (``b"name: value\\r\\n"…``)."""
        self.started = True
        self.status = status
        described = b"content-type: %b\r\ncontent-length: %d\r\n" % (content_type, len(body))
        if status in _EMPTY:
            described = b""
        head = b"%b%b%b%b\r\n" % (status_line(status), described, headers, self._fixed())
        self._connection.transport.write(head if self.head.method == "HEAD" else head + body)
        self.finished = True

    def begin(self, status: int, content_type: bytes, headers: bytes = b"") -> None:
        """Start an answer whose length is not known yet."""
        self.started = True
        self.status = status
        self._chunked = self.head.version == "1.1"
        if not self._chunked:  # RFC 9112 6.1: an HTTP/1.0 client gets the end of the connection as the end of the body
            self._connection.keep_alive = False
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        head = b"%bcontent-type: %b\r\ncache-control: no-cache\r\n%b%b%b\r\n" % (
            status_line(status),
            content_type,
            framing,
            headers,
            self._fixed(),
        )
        self._connection.transport.write(head)

    def _fixed(self) -> bytes:
        closing = b"" if self._connection.keep_alive else b"connection: close\r\n"
        return b"x-request-id: %b\r\nx-content-type-options: nosniff\r\n%b" % (self.id.encode(), closing)

    def put(self, data: bytes) -> None:
        """Write a piece of the body without waiting for the client to take it (for the last words of a stream)."""
        if data and self.head.method != "HEAD":
            self._connection.transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def write(self, data: bytes) -> None:
        """Write a piece of the body; waits while the client does not read."""
        self.put(data)
        if self._connection.write_paused:
            await self._connection.writable()

    def finish(self) -> None:
        """End an answer that was begun."""
        if not self.finished:
            self.finished = True
            if self._chunked and self.head.method != "HEAD":
                self._connection.transport.write(b"0\r\n\r\n")

    def fail(self, app: App, error: BridgeError) -> None:
        """Answer with an error in the best way that is still possible."""
        if self.finished:
            return
        if not self.started:
            body, content_type = app.render(self.head, error)
            retry = b"retry-after: %d\r\n" % error.retry_after if error.retry_after is not None else b""
            self.send(error.status, content_type, body, retry)
        elif self.terminal is not None:
            self.put(self.terminal(error))
            self.finish()
        else:  # a body of another kind broke off: only the missing end can tell the client
            self.finished = True
            self._connection.abort()

    def interrupt(self, error: BridgeError) -> None:
        """End this exchange from outside (shutdown, an operator's cancel) with `error`."""
        self.failed = error
        self._connection.cancel()

    @property
    def task(self) -> asyncio.Task[None] | None:
        return self._connection.task
