"""How long to wait before the next start, and when to give up. Pure: no clock; callers say how long a run lasted."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Backoff:
    """Failures in a row and what follows from them.

    The delay doubles from `first` to `ceiling` seconds. A run of at least `healthy` seconds forgets earlier failures,
    so a process that dies once a day is never given up, while one that dies after every start is after `limit`
    failures.
    """

    first: float = 0.5
    ceiling: float = 60.0
    limit: int = 5
    healthy: float = 60.0
    failures: int = 0

    def failed(self, ran: float = 0.0) -> Backoff:
        """The state after a start that failed, or a run that ended unexpectedly after `ran` seconds."""
        return replace(self, failures=1 if ran >= self.healthy else self.failures + 1)

    def forgotten(self) -> Backoff:
        """A fresh count: somebody asked for a new attempt."""
        return replace(self, failures=0)

    @property
    def delay(self) -> float:
        """Seconds until the next start."""
        if self.failures == 0:
            return 0.0
        return min(self.ceiling, self.first * 2.0 ** min(self.failures - 1, 32))

    @property
    def exhausted(self) -> bool:
        return self.failures >= self.limit
