"""One client socket: bytes → one checked request at a time → a handler.

Invariants
- Nothing reaches a handler that `head.check` and the guard have not passed, and no body byte is kept that the matched
  route's limit does not cover.
- One request of a connection is handled at a time; bytes that arrive meanwhile wait, unparsed (pipelining, RFC 9112
  9.3.2). The socket is read all the time, because only so the end of a client is seen; who sends more than 64 KiB ahead
  is cut off.
- The end of the client's stream cancels the handler at once, in whatever it waits for.
- Deadlines are an attribute that the server's one timer looks at, so an ordinary request costs no timer of its own.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import httptools

from llm_bridge.errors import BridgeError, HeadersTooLarge, Internal, RequestTimeout, TooLarge
from llm_bridge.wire.exchange import Exchange, Handler
from llm_bridge.wire.head import MAX_FIELDS, MAX_HEAD, SINGLE, Head, bad, check

if TYPE_CHECKING:
    from llm_bridge.wire.server import Server

_BACKLOG = 64 * 1024
_DEAF_MAX = 16 << 20  # bytes thrown away after a refusal before the client is cut off
_WRITE_HIGH = 256 * 1024
_PIPELINE_MAX = 64

log = logging.getLogger("llm_bridge.wire")


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds a client may take, and bytes per second it must keep up.

    Attributes:
        head: from the first byte of a head (or from the connection) to the end of the head.
        idle: between two requests on one connection.
        body, rate: a body may take `body` seconds, or longer while it comes at `rate` bytes per second.
        stall: without reading anything of an answer; then the client has left.
        linger: after a refusal, so that the answer is not lost to a reset (RFC 9112 9.6).
    """

    head: float = 10.0
    idle: float = 75.0
    body: float = 60.0
    rate: float = 1024.0
    stall: float = 60.0
    linger: float = 2.0


class Connection(asyncio.Protocol):
    """One client socket."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.transport: asyncio.Transport
        self.peer = ""
        self.task: asyncio.Task[None] | None = None
        self.exchange: Exchange | None = None
        self.keep_alive = True
        self.write_paused = False
        self.deadline = 0.0
        self._drained: asyncio.Future[None] | None = None
        self._queue: list[tuple[Head, Handler | BridgeError, bytes]] = []
        self._backlog = bytearray()
        self._discarded = 0
        self._unsent = 0  # bytes in the write buffer when the stall deadline was set
        self._deaf = False  # a refusal is under way: nothing more is read from this client
        self._parser = httptools.HttpRequestParser(self)
        self._start_message()

    def _start_message(self) -> None:
        self._target = b""
        self._fields: dict[bytes, bytes] = {}
        self._began = self._unread = self._resuming = False
        self._count = self._fed = 0
        self._repeated = b""
        self._head: Head | None = None
        self._handler: Handler | None = None
        self._limit = 0
        self._body = bytearray()
        self._body_since = 0.0

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_WRITE_HIGH)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if peer else ""
        self.deadline = self.server.now() + self.server.limits.head
        self.server.admit(self)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._discarded += len(data)
            if self._discarded > _DEAF_MAX:
                self.abort()
        elif self.task is None:
            self._feed(data)
        else:
            self._backlog += data
            if len(self._backlog) > _BACKLOG:
                self.abort()

    def eof_received(self) -> bool:
        # A client that ends its side while its request is being handled has left: no HTTP client in use waits for an
        # answer after its own FIN, and the work must end now, not when the answer fails to be written.
        if self.task is not None:
            self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.forget(self)
        self._deaf = True
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self.task is not None:
            self.task.cancel()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._watch_unsent()

    def resume_writing(self) -> None:
        self.write_paused = False
        limits = self.server.limits
        self.deadline = 0.0 if self.task else self.server.now() + (limits.linger if self._deaf else limits.idle)
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def writable(self) -> None:
        """Wait until the client has taken enough of what was written."""
        while self.write_paused and not self.transport.is_closing():
            self._drained = self.server.loop.create_future()
            await self._drained

    def _watch_unsent(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self.deadline = self.server.now() + self.server.limits.stall

    # -- parsing

    def _feed(self, data: bytes) -> None:
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as wrapped:
            cause = wrapped.__context__
            self._refuse(cause if isinstance(cause, BridgeError) else self._crashed(wrapped))
        except httptools.HttpParserError:
            self._refuse(bad("HTTP/1.1 として正しくないリクエストです", "malformed HTTP/1.1 request"))
        else:
            # What is fed and is no body is head, chunk sizes or trailer, all of which the parser keeps without a limit.
            if self._began and self._fed - len(self._body) > 2 * MAX_HEAD + len(self._body) // 8:
                self._refuse(HeadersTooLarge())

    def _decline_upgrade(self, rest: bytes) -> None:
        """Go on after an offer to switch protocols, which may be ignored (RFC 9110 7.8); Java's client always makes it.

        The parser stops at such a head and leaves out its body, so a new one is set to where that body begins.
        """
        self._parser = httptools.HttpRequestParser(self)
        if not self._unread:
            if rest:
                self.data_received(rest)
            return
        self._unread, self._resuming = False, True
        length = self._fields.get(b"content-length")
        framing = b"content-length: " + length if length is not None else b"transfer-encoding: chunked"
        self._feed(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n" + rest)

    def _crashed(self, error: Exception) -> BridgeError:
        log.error("request parsing failed", exc_info=error)
        return Internal(request_id="-")

    def on_message_begin(self) -> None:
        if self._resuming:
            return
        self._began = True
        if self.task is None:
            self.deadline = self.server.now() + self.server.limits.head

    def on_url(self, url: bytes) -> None:
        if not self._resuming:
            self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._resuming:
            return
        self._count += 1
        if self._count > MAX_FIELDS:
            raise HeadersTooLarge
        if self._head is not None:  # a trailer field: it comes after the checks, so it may not change what they saw
            return
        key = name.lower()
        if key in self._fields:
            if key in SINGLE:
                self._repeated = key
            value = self._fields[key] + b", " + value
        self._fields[key] = value

    def on_headers_complete(self) -> None:
        if self._resuming:
            self._resuming = False
            return
        parser = self._parser
        head = Head(
            parser.get_method().decode("ascii"),
            self._target,
            self._fields,
            parser.get_http_version(),
            parser.should_keep_alive(),
            self.peer,
        )
        if sum(len(k) + len(v) + 4 for k, v in self._fields.items()) + len(self._target) > MAX_HEAD:
            raise HeadersTooLarge
        check(head, self._repeated)
        self.server.guard.check(head)
        self._head = head
        self.server.accepting(head)
        self._handler, self._limit = self.server.app.route(head)
        length = head.fields.get(b"content-length", b"0")
        if len(length) > 18 or int(length) > self._limit:
            raise TooLarge(limit=self._limit)
        self._unread = parser.should_upgrade() and head.has_body
        if self.task is None:
            self._expect_body(head)

    def _expect_body(self, head: Head) -> None:
        self._body_since = self.server.now()
        self.deadline = self._body_since + self.server.limits.body
        if b"expect" in head.fields and not self._body:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if len(self._body) + len(body) > self._limit:
            raise TooLarge(limit=self._limit)
        self._body += body

    def on_message_complete(self) -> None:
        if self._unread:
            return
        head, handler = self._head, self._handler
        if head is None or handler is None or len(self._queue) >= _PIPELINE_MAX:
            raise bad("先送りされたリクエストが多すぎます", "too many pipelined requests")
        body = bytes(self._body)
        self._start_message()
        self._submit(head, handler, body)

    # -- handling

    def _submit(self, head: Head, handler: Handler | BridgeError, body: bytes) -> None:
        if self.task is not None:
            self._queue.append((head, handler, body))
            return
        self.deadline = 0.0
        self.keep_alive = head.keep_alive and not self.server.draining
        exchange = Exchange(self, head, body, self.server.next_id())
        self.exchange = exchange
        self.server.active.add(exchange)
        self.task = self.server.loop.create_task(self._run(exchange, handler))

    def _refuse(self, error: BridgeError) -> None:
        """Answer with `error` and close: what follows on this connection can no longer be trusted."""
        head = self._head or Head("GET", self._target or b"/", self._fields, "1.1", False, self.peer)
        head.keep_alive = False
        self._deaf = True
        self._body.clear()  # nobody will read it
        self._submit(head, error, b"")

    async def _run(self, exchange: Exchange, handler: Handler | BridgeError) -> None:
        app = self.server.app
        try:
            if isinstance(handler, BridgeError):
                raise handler
            await handler(exchange)
        except asyncio.CancelledError:
            if exchange.failed is None:  # the client left
                self.abort()
            else:
                exchange.fail(app, exchange.failed)
        except BridgeError as error:
            exchange.fail(app, error)
        except Exception as error:  # the root of a request: whatever went wrong, the client gets an answer
            log.error("request %s failed", exchange.id, exc_info=error)
            exchange.fail(app, Internal(request_id=exchange.id))
        finally:
            self._done(exchange)

    def _done(self, exchange: Exchange) -> None:
        self.server.active.discard(exchange)
        self.task = None
        self.exchange = None
        if self.transport.is_closing():
            return
        if not exchange.finished:
            self.abort()
        elif not self.keep_alive:
            self._linger()
        elif self._queue:
            self._submit(*self._queue.pop(0))
        else:
            self._await_next()

    def _await_next(self) -> None:
        """Set the deadline for what comes next, and feed what has come meanwhile."""
        if self._head is not None:
            self._expect_body(self._head)
        elif not self.write_paused:  # else the stall deadline goes on
            limits = self.server.limits
            self.deadline = self.server.now() + (limits.head if self._began else limits.idle)
        if self._backlog:
            data = bytes(self._backlog)
            self._backlog.clear()
            self._feed(data)

    def _linger(self) -> None:
        self._deaf = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.deadline = self.server.now() + self.server.limits.linger
            if self.transport.get_write_buffer_size():
                self._watch_unsent()
        else:
            self.transport.close()

    # -- ends

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def abort(self) -> None:
        self._deaf = True
        self.transport.abort()

    def expire(self, now: float) -> None:
        """Called twice a second: end what has run past its deadline."""
        if not self.deadline or now < self.deadline:
            return
        unsent = self.transport.get_write_buffer_size()
        if 0 < unsent < self._unsent:  # slow, but it reads
            self._watch_unsent()
        elif self.task is not None or self._deaf or self.write_paused or not self._began:
            self.abort()  # a client that reads nothing, lingers after a refusal, or idles
        elif self._head is None or len(self._body) / max(now - self._body_since, 1.0) < self.server.limits.rate:
            self._refuse(RequestTimeout())

    def end(self, error: BridgeError) -> None:
        """For the end of the server: whatever goes on here ends with `error`."""
        if self.exchange is not None:
            self.exchange.interrupt(error)
        elif self._began and not self._deaf:
            self._refuse(error)

    @property
    def waiting(self) -> bool:
        """No request of this connection is being handled."""
        return self.task is None

    @property
    def busy(self) -> bool:
        """A request is arriving or being handled, or an answer has not left yet."""
        return self.task is not None or self._began or self.transport.get_write_buffer_size() > 0
