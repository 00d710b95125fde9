"""Upstreams of API models: one per origin and key, made at first use.

A configuration change only marks what it no longer names; the last request that holds such an upstream closes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from llm_bridge.config.schema import ModelEntry
from llm_bridge.providers.table import upstream_for
from llm_bridge.settings import Settings
from llm_bridge.wire.client import Upstream

Origin = tuple[str, str | None, str | None, str]


class Held:
    """An upstream and the count of leases on it."""

    __slots__ = ("_close", "in_flight", "retired", "upstream")

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.in_flight = 0
        self.retired = False
        self._close: asyncio.Task[None] | None = None

    def take(self) -> None:
        self.in_flight += 1

    def give(self) -> None:
        self.in_flight -= 1
        self._close_if_unused()

    def retire(self) -> None:
        self.retired = True
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self.retired and self.in_flight == 0 and self._close is None:
            self._close = asyncio.create_task(self.upstream.close(), name="upstream-close")


class DirectRoutes:
    """The upstreams of all API models of the current configuration."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._origins: dict[Origin, Held] = {}

    def take(self, entry: ModelEntry) -> tuple[Held, str]:
        """The upstream of `entry` and the model name to send to it. Not counted yet.

        Raises:
            MissingKey: its key is not set.
            BadRequest: its provider cannot be used.
        """
        fresh, model = upstream_for(entry, self._settings)  # it connects at the first request only
        return self._origins.setdefault(_origin(entry), Held(fresh)), model

    def retain(self, entries: Iterable[ModelEntry]) -> None:
        """Forget every upstream that none of `entries` can use."""
        wanted = {_origin(entry) for entry in entries}
        for origin in [origin for origin in self._origins if origin not in wanted]:
            self._origins.pop(origin).retire()

    async def close(self) -> None:
        """Close everything; requests that are running fail."""
        held, self._origins = list(self._origins.values()), {}
        for one in held:
            await one.upstream.close()


def _origin(entry: ModelEntry) -> Origin:
    # The other parameters may hold headers and organisations, so two entries share an upstream only if all are equal.
    return entry.provider, entry.api_base, entry.api_key, repr(sorted(entry.params.items()))
