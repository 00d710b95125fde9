"""Server-sent events passing through: whole events only, and exactly one terminal event per stream.

`Relay` takes the upstream's bytes in any pieces and gives back the longest run of whole events, untouched. What it
keeps is the unfinished tail, so that a broken upstream can never leave half an event in front of the error event that
ends the stream. It works on bytes and knows nothing of packet boundaries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llm_bridge.errors import UpstreamFailed

MAX_EVENT = 1 << 20  # bytes; an upstream that sends more without an empty line is broken

_BOUNDARY = re.compile(rb"\n\n|\r\n\r\n")  # the two forms that servers in use send


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a surface ends its streams.

    Attributes:
        ends: how a line begins that makes an event the regular end.
        errors: how a line begins that makes it the report of a failure, which is an end as well.
    """

    ends: tuple[bytes, ...]
    errors: tuple[bytes, ...]


OPENAI = Dialect(ends=(b"data: [DONE]", b"data:[DONE]"), errors=(b'data: {"error"', b"error:", b"event: error"))
RESPONSES = Dialect(
    ends=(b"event: response.completed", b"event: response.incomplete", b"event: response.failed"),
    errors=(b"event: error", b'data: {"error"', b"error:"),
)
ANTHROPIC = Dialect(ends=(b"event: message_stop",), errors=(b"event: error", b'data: {"error"', b"error:"))


class Relay:
    """One stream of events on its way through.

    Attributes:
        ended: the terminal event has been passed on; whatever follows it is dropped.
    """

    __slots__ = ("_dialect", "_tail", "ended")

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._tail = b""
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """The whole events now available, up to and including the terminal one.

        Raises:
            UpstreamFailed: one event exceeds `MAX_EVENT`.
        """
        if self.ended:
            return b""
        data = self._tail + data if self._tail else data
        line_feeds, crlfs = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
        end = max(line_feeds + 2 if line_feeds >= 0 else 0, crlfs + 4 if crlfs >= 0 else 0)
        events, self._tail = data[:end], data[end:]
        if len(self._tail) > MAX_EVENT:
            raise UpstreamFailed(upstream="SSE", reason=f"an event over {MAX_EVENT} bytes")
        return self._cut(events) if events else events

    def _cut(self, events: bytes) -> bytes:
        """Look for the terminal event; the usual piece has none and costs a few substring searches."""
        marks = (*self._dialect.ends, *self._dialect.errors)
        if not any(mark in events for mark in marks):
            return events
        start = 0
        for boundary in _BOUNDARY.finditer(events):
            # Any line of the event may be the one: comments, ids and event names may stand before it.
            if any(line.startswith(marks) for line in events[start : boundary.start()].splitlines()):
                self.ended = True
                return events[: boundary.end()]
            start = boundary.end()
        return events


def event(data: bytes, name: bytes = b"") -> bytes:
    """One event with a single line of data (WHATWG HTML 9.2.5)."""
    return (b"event: %b\n" % name if name else b"") + b"data: %b\n\n" % data
