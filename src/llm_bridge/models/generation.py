"""One run of the local engine as requests see it, and the count of who holds it.

Invariant: a generation that is draining never gets a new lease, and `idle` is set exactly when it is draining and
nobody holds it. Whoever waits for `idle` may stop the engine without cutting a request.
"""

from __future__ import annotations

import asyncio

from llm_bridge.engines.base import RunningEngine
from llm_bridge.wire.client import Upstream


class Generation:
    """`number` grows with every engine that served; it is what x-llm-bridge headers and status show."""

    def __init__(
        self, number: int, engine: RunningEngine, upstream: Upstream, started: float, *, tools: bool = True
    ) -> None:
        self.number = number
        self.engine = engine
        self.upstream = upstream
        self.started = started
        self.tools = tools  # its chat template knows tools
        self.in_flight = 0
        self.draining = False
        self.idle = asyncio.Event()

    def __repr__(self) -> str:
        return f"Generation({self.number}, in_flight={self.in_flight}, draining={self.draining})"

    def take(self) -> None:
        if self.draining:
            raise RuntimeError(f"{self!r} is draining")
        self.in_flight += 1

    def give(self) -> None:
        if self.in_flight <= 0:
            raise RuntimeError(f"{self!r} given back more often than taken")
        self.in_flight -= 1
        if self.draining and self.in_flight == 0:
            self.idle.set()

    def drain(self) -> None:
        self.draining = True
        if self.in_flight == 0:
            self.idle.set()
