"""Which upstream serves which name, and who holds it. Plain memory with one writer, the manager.

The whole contract with the gateway is::

    async with pool.lease(alias) as route:
        response = await route.upstream.send(...)

Invariants
- A lease is counted from the moment it has its route until its block ends, whatever ends it.
- Waiting requests never hold anything: they are woken and look again, so one that was cancelled in the same moment has
  nothing to give back.
- A configuration change never closes an upstream that carries requests.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from llm_bridge.config.schema import Config, ModelEntry
from llm_bridge.errors import EngineFailed, ModelNotFound, Unavailable
from llm_bridge.models.direct import DirectRoutes, Held
from llm_bridge.models.generation import Generation
from llm_bridge.settings import Settings
from llm_bridge.wire.client import Upstream

QUEUE = 256  # requests that may wait for the local model
DEADLINE = 30.0  # seconds one of them waits
_RETRY_AFTER = 5  # seconds; a small model is ready long before, a large one is not worth a tighter loop
_DEFAULTS = ("", "default")


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes.

    Attributes:
        model: the name to send upstream.
        generation: 0 for API models.
        tools: False when the model is known to be unable to call tools.
    """

    alias: str
    lane: Literal["local", "direct"]
    upstream: Upstream
    model: str
    entry: ModelEntry
    generation: int
    tools: bool = True


Holder = Generation | Held
"""What counts the leases on a route."""


class Pool:
    """See the module's text."""

    def __init__(self, settings: Settings, *, queue: int = QUEUE, deadline: float = DEADLINE) -> None:
        self._direct = DirectRoutes(settings)
        self._queue = queue
        self._deadline = deadline
        self._entries: dict[str, ModelEntry] = {}
        self._local: Generation | None = None
        self._failure: EngineFailed | None = None
        self._routes: dict[str, tuple[Route, Holder]] = {}  # made at first use, dropped at every change
        self._waiters: set[asyncio.Future[None]] = set()

    # -- for the gateway

    def lease(self, alias: str | None) -> Lease:
        """A lease on the model `alias`; None, "" and "default" mean the first of the configuration.

        Entering it raises:
            ModelNotFound: not configured.
            MissingKey: an API model whose key is not set.
            EngineFailed: the local engine was given up.
            Unavailable: the local model is not ready within the deadline, or too many wait already.
        """
        return Lease(self, alias)

    def names(self) -> tuple[str, ...]:
        """The configured names in the configuration's order."""
        return tuple(self._entries)

    def find(self, alias: str | None) -> ModelEntry:
        """The entry `alias` means. Raises ModelNotFound."""
        entry = self._entries.get(alias or "")
        if entry is None and (alias is None or alias in _DEFAULTS):
            entry = next(iter(self._entries.values()), None)
        if entry is None:
            raise ModelNotFound(param="model", model=alias or "default", known=", ".join(self._entries) or "-")
        return entry

    # -- for the manager

    def configure(self, config: Config) -> None:
        """Adopt the names of `config`. Leases that are out keep their routes."""
        entries: dict[str, ModelEntry] = {}
        for entry in config.models:
            entries.setdefault(entry.name, entry)  # the first of several entries of one name serves
        self._entries = entries
        self._direct.retain(entry for entry in entries.values() if not entry.local)
        self._change(self._local, self._failure)

    def serve(self, generation: Generation) -> None:
        """Route the local model's requests to `generation`."""
        self._change(generation, None)

    def hold(self) -> None:
        """Nothing serves the local model now, something will: requests wait."""
        self._change(None, None)

    def refuse(self, failure: EngineFailed) -> None:
        """Nothing will serve the local model: requests fail with `failure`."""
        self._change(None, failure)

    @property
    def local(self) -> Generation | None:
        return self._local

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    async def close(self) -> None:
        await self._direct.close()

    # -- for Lease

    def route(self, alias: str | None) -> tuple[Route, Holder] | None:
        """The route of `alias` and what counts its leases; None to wait for a change. Raises as `lease` does."""
        entry = self.find(alias)
        known = self._routes.get(entry.name)
        if known is not None:
            return known
        if not entry.local:
            held, model = self._direct.take(entry)
            known = Route(entry.name, "direct", held.upstream, model, entry, 0), held
        elif self._failure is not None:
            raise _again(self._failure)
        elif self._local is not None:
            serving = self._local
            known = (
                Route(entry.name, "local", serving.upstream, entry.name, entry, serving.number, serving.tools),
                serving,
            )
        else:
            return None
        self._routes[entry.name] = known
        return known

    async def changed(self, until: float) -> None:
        """Wait for the next change, at most until the loop's time `until`."""
        if len(self._waiters) >= self._queue:
            raise _unavailable("待機中のリクエストが多すぎます", "too many requests are waiting")
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout_at(until):
                await waiter
        except TimeoutError:
            raise _unavailable("ローカルモデルの準備ができていません", "the local model is not ready yet") from None
        finally:
            self._waiters.discard(waiter)

    def deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._deadline

    def _change(self, local: Generation | None, failure: EngineFailed | None) -> None:
        self._local, self._failure = local, failure
        self._routes.clear()
        for waiter in self._waiters:
            if not waiter.done():  # cancelled in this very tick: setting its result would raise
                waiter.set_result(None)


class Lease:
    """One request's hold on a model. Enter it once."""

    __slots__ = ("_alias", "_holder", "_pool")

    def __init__(self, pool: Pool, alias: str | None) -> None:
        self._pool = pool
        self._alias = alias
        self._holder: Holder | None = None

    async def __aenter__(self) -> Route:
        until = 0.0
        while (found := self._pool.route(self._alias)) is None:
            until = until or self._pool.deadline()
            await self._pool.changed(until)
        route, holder = found
        holder.take()
        self._holder = holder
        return route

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.give()


def _again(failure: EngineFailed) -> EngineFailed:
    """A fresh copy for each request: a raised exception keeps the frames of all who raised it, bodies included."""
    return EngineFailed(param=failure.param, retry_after=failure.retry_after, **failure.fields)


def _unavailable(ja: str, en: str) -> Unavailable:
    return Unavailable(reason=(ja, en), retry_after=_RETRY_AFTER)
