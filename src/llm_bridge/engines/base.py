"""The seam between the models and whatever runs them: start one, know when it died, stop it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Text = tuple[str, str]
"""The same sentence in Japanese and English."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What to run.

    Attributes:
        name: the alias the engine answers to.
        path: the GGUF file.
        context: tokens per sequence (not shared between sequences).
        parallel: sequences decoded at once.
        threads: 0 means as many as the size of the model is worth, at most one per physical core.
    """

    name: str
    path: Path
    context: int
    parallel: int
    threads: int


class RunningEngine(Protocol):
    """An engine that answers OpenAI's HTTP API on `host`:`port` for the bearer of `key`."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def key(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def pid(self) -> int: ...
    @property
    def context(self) -> int: ...

    async def wait(self) -> Text:
        """Returns when it has died, with why."""

    async def stop(self) -> None:
        """End it; returns when it is gone. Safe to call on a dead one, and twice."""


class Engine(Protocol):
    """A way to run models."""

    async def start(self, spec: EngineSpec) -> RunningEngine:
        """Start `spec` and return when it is ready to answer. A cancelled start leaves nothing behind.

        Raises:
            EngineFailed: with the cause and the useful part of what the engine printed.
        """
