"""Pooled HTTP/1.1 client for one origin: the upstream side of the data plane.

Invariants
- A connection carries one exchange at a time and returns to the pool only after a complete response that allows reuse.
- Leaving `async with response` early closes the connection: so an upstream learns that nobody listens any more.
- A request is repeated by itself in one case only: a *reused* connection ended within a second of the request and
  before a single response byte. That is the keep-alive race of RFC 9112 9.3.1; an upstream that ends later has been
  working on it, and the fresh connection that follows is never repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from types import TracebackType
from typing import Self, cast

import httptools

from llm_bridge.errors import ConnectFailed, ServiceError, UpstreamFailed, UpstreamTimeout

Headers = tuple[tuple[str, str], ...]

_HIGH_WATER = 256 * 1024  # bytes a response may run ahead of its reader before the socket is no longer read
_IDLE_MAX = 64  # connections kept open per origin
_HEAD_MAX = 64 * 1024
_CONNECT = 5.0  # seconds a connection may take to be made
_RACE = 1.0  # seconds after a request within which the end of a reused connection is the keep-alive race
_SWEEP = 0.5  # seconds between two looks at the deadlines: one timer per origin instead of one per request


class _StaleConnection(Exception):
    """A reused connection ended before the response began."""


class _Connection(asyncio.Protocol):
    """One socket to the upstream; parser callbacks fill the fields that `Response` reads."""

    __slots__ = (
        "chunks",
        "complete",
        "deadline",
        "error",
        "framed",
        "head_bytes",
        "headed",
        "headers",
        "limits",
        "lost",
        "owner",
        "parser",
        "paused",
        "phase",
        "reusable",
        "reused",
        "sent",
        "size",
        "status",
        "transport",
        "waiter",
    )

    def __init__(self, owner: Upstream) -> None:
        self.owner = owner
        self.transport: asyncio.Transport
        self.lost = False
        self.reused = False
        self.waiter: asyncio.Future[None] | None = None
        self.limits = (0.0, 0.0)
        self.reset()

    def reset(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.headers: list[tuple[str, str]] = []
        self.chunks: list[bytes] = []
        self.size = self.status = self.head_bytes = 0
        self.headed = self.complete = self.framed = self.paused = self.reusable = False
        self.error: Exception | None = None
        self.deadline = self.sent = 0.0
        self.phase = ""

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self.phase or self.complete:  # bytes nobody asked for: not to be trusted with another request
            self.reusable = False
            if not self.phase:
                self.abort()
            return
        if not self.headed:
            self.head_bytes += len(data)
        try:
            self.parser.feed_data(data)
            if not self.headed and self.head_bytes > _HEAD_MAX:
                self.fail("response headers too large")
        except httptools.HttpParserError as cause:
            self._malformed(cause)
        if self.headed and self.deadline:
            self.deadline = self.owner.loop.time() + self.limits[1]
        self.wake()

    def _malformed(self, cause: Exception) -> None:
        if self.complete:  # what follows a complete answer does not make that answer wrong
            self.reusable = False
        else:
            self.fail(f"not HTTP/1.1: {cause}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.owner.forget(self)
        if self.phase and not self.complete and self.error is None:
            if self.headed and not self.framed and exc is None:
                self.complete = True  # a body delimited by the end of the connection (RFC 9112 6.3, rule 8)
            elif self.reused and self.head_bytes == 0 and self.owner.loop.time() - self.sent < _RACE:
                self.error = _StaleConnection()
            else:
                self.fail(str(exc) if exc else "connection closed before the response was complete")
        self.wake()

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("a second response")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.headed:  # a trailer field
            return
        key = name.decode("latin-1").lower()
        self.headers.append((key, value.decode("latin-1")))
        if key in ("content-length", "transfer-encoding"):
            self.framed = True

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        if self.status >= 200:
            self.headed = True
            self.phase = "between chunks"

    def on_body(self, body: bytes) -> None:
        self.chunks.append(body)
        self.size += len(body)
        if self.size > _HIGH_WATER and not self.paused:
            self.paused = True
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        if self.status < 200:  # 1xx: the real head is still to come
            self.headers.clear()
            self.framed = False
            return
        self.complete = True
        self.reusable = self.parser.should_keep_alive()  # only known here: the parser forgets it with the message
        self.deadline = 0.0

    # -- for Response and Upstream

    def wake(self) -> None:
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, reason: str) -> None:
        self.error = UpstreamFailed(upstream=self.owner.name, reason=reason)
        self.transport.abort()

    def expire(self, now: float) -> None:
        if self.deadline and now > self.deadline and not self.paused:  # paused: it is our reader that is slow
            seconds = round(self.limits[1] if self.headed else self.limits[0], 1)
            self.error = UpstreamTimeout(upstream=self.owner.name, phase=self.phase, seconds=seconds)
            self.deadline = 0.0
            self.transport.abort()
            self.wake()

    def abort(self) -> None:
        self.deadline = 0.0
        self.transport.abort()

    async def wait(self) -> None:
        self.waiter = self.owner.loop.create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None

    def take(self) -> bytes:
        """Everything that has arrived; lets the socket run again."""
        chunks = self.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.size = 0
        if self.paused:
            self.paused = False
            if self.deadline:
                self.deadline = self.owner.loop.time() + self.limits[1]
            if not self.lost:
                self.transport.resume_reading()
        return data


class Response:
    """A response whose head has arrived. Use as ``async with``; leaving early cancels the upstream's work."""

    __slots__ = ("_connection", "headers", "status")

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self.status = connection.status
        self.headers = connection.headers

    def header(self, name: str) -> str:
        """The first value of a header (lower-case name), or an empty string."""
        return next((value for key, value in self.headers if key == name), "")

    async def read(self) -> bytes:
        """The bytes that have arrived since the last call, waiting for at least one; ``b""`` at the end.

        Raises:
            UpstreamFailed: the connection broke before the body was complete.
            UpstreamTimeout: nothing arrived within the between-chunks limit.
        """
        connection = self._connection
        while not connection.chunks:
            if connection.error is not None:
                raise connection.error
            if connection.complete:
                return b""
            await connection.wait()
        return connection.take()

    async def body(self, limit: int) -> bytes:
        """The whole body, at most `limit` bytes.

        Raises:
            UpstreamFailed: longer than `limit`, or broken.
        """
        parts, size = [], 0
        while part := await self.read():
            size += len(part)
            if size > limit:
                raise UpstreamFailed(upstream=self._connection.owner.name, reason=f"response over {limit} bytes")
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def rest(self) -> None:
        """Let the last bytes of a finished exchange come, for at most a second, so that the connection is reused."""
        with contextlib.suppress(ServiceError, TimeoutError):
            if not self._connection.complete:
                async with asyncio.timeout(1.0):
                    while await self.read():
                        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        connection = self._connection
        connection.owner.release(connection)


class Upstream:
    """One origin and its pool of connections.

    Args:
        host, port: where to connect.
        tls: a context for https, or None.
        authority: value of the Host header; default ``host:port``.
        headers: sent with every request (the credentials of this upstream, prebuilt once).
        prefix: put before every path, for example ``/v1``.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        authority: str = "",
        headers: Headers = (),
        prefix: str = "",
    ) -> None:
        self.name = authority or f"{host}:{port}"
        self.loop = asyncio.get_running_loop()
        self._where = (host, port, tls)
        self._prefix = prefix
        fixed = (("host", self.name), ("accept-encoding", "identity"), ("content-type", "application/json"), *headers)
        self._fixed = "".join(f"{name}: {value}\r\n" for name, value in fixed)
        self._heads: dict[tuple[str, str], bytes] = {}
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def authority_and_prefix(self) -> tuple[str, str]:
        return self.name, self._prefix

    async def send(self, method: str, path: str, body: bytes, limits: tuple[float, float] = (600.0, 600.0)) -> Response:
        """Send one request and wait for the response's head.

        Args:
            limits: seconds until the head, and between two pieces of the body.

        Raises:
            ConnectFailed: nothing was sent.
            UpstreamFailed, UpstreamTimeout: it was sent, and no usable head came back.
        """
        data = self._head(method, path) + b"%d\r\n\r\n" % len(body) + body
        connection = self._idle.pop() if self._idle else await self._connect()
        try:
            return await self._exchange(connection, data, limits)
        except _StaleConnection:
            return await self._exchange(await self._connect(), data, limits)

    def _head(self, method: str, path: str) -> bytes:
        head = self._heads.get((method, path))
        if head is None:
            head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._fixed}content-length: ".encode("latin-1")
            if len(self._heads) < 256:
                self._heads[method, path] = head
        return head

    async def _connect(self) -> _Connection:
        host, port, tls = self._where
        try:
            async with asyncio.timeout(_CONNECT):
                _, connection = await self.loop.create_connection(lambda: _Connection(self), host, port, ssl=tls)
        except TimeoutError:
            reason = f"no connection within {_CONNECT:g} s"
            raise ConnectFailed(upstream=self.name, reason=reason) from None
        except OSError as cause:
            raise ConnectFailed(upstream=self.name, reason=cause.strerror or str(cause)) from None
        return connection

    async def _exchange(self, connection: _Connection, data: bytes, limits: tuple[float, float]) -> Response:
        self._busy.add(connection)
        connection.limits = limits
        connection.phase = "first byte"
        connection.sent = self.loop.time()
        connection.deadline = connection.sent + limits[0]
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(_SWEEP, self._sweep)
        try:
            connection.transport.write(data)
            while not connection.headed and connection.error is None:
                await connection.wait()
        except BaseException:  # cancelled: the client left while the upstream was thinking
            self.release(connection)
            raise
        if connection.error is not None and not connection.headed:
            self._busy.discard(connection)
            raise connection.error
        return Response(connection)

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in tuple(self._busy):
            connection.expire(now)
        self._sweeper = self.loop.call_later(_SWEEP, self._sweep) if self._busy else None

    def release(self, connection: _Connection) -> None:
        """Back into the pool if the exchange ended cleanly, closed otherwise."""
        if connection not in self._busy:
            return
        self._busy.discard(connection)
        reusable = connection.complete and connection.error is None and not connection.lost and connection.reusable
        if not reusable or len(self._idle) >= _IDLE_MAX:
            connection.phase = ""
            connection.abort()
            return
        if connection.paused:
            connection.transport.resume_reading()
        connection.reset()
        connection.reused = True
        self._idle.append(connection)

    def forget(self, connection: _Connection) -> None:
        """A connection ended by itself: it must not be picked from the pool again."""
        if connection in self._idle:
            self._idle.remove(connection)

    async def close(self) -> None:
        """Close every connection; exchanges that are running fail, and are not repeated."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in (*self._idle, *self._busy):
            connection.reused = False
            connection.transport.abort()
        self._idle.clear()
        await asyncio.sleep(0)
