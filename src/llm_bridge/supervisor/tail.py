"""The last lines of what a child printed, bounded in lines and bytes."""

from __future__ import annotations

from collections import deque

_LINES = 64
_BYTES = 8 * 1024
_LINE = 1024


class Tail:
    """A ring of the last 64 lines and at most 8 KiB. Long lines are cut, control characters become spaces."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._size = 0
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._append(line)
        if len(self._rest) > _LINE:  # a line without end must not grow without bound
            self._append(self._rest)
            self._rest = b""

    def close(self) -> None:
        """The stream ended: what is left without a newline is a line too."""
        if self._rest:
            self._append(self._rest)
            self._rest = b""

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(self._lines)

    def _append(self, raw: bytes) -> None:
        text = raw[:_LINE].decode(errors="replace")
        text = "".join(c if c.isprintable() else " " for c in text).rstrip()
        if not text:
            return
        if len(self._lines) == _LINES:
            self._size -= len(self._lines[0])
        self._lines.append(text)
        self._size += len(text)
        while self._size > _BYTES:
            self._size -= len(self._lines.popleft())
