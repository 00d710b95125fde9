"""Notices that someone else changed the config file."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from llm_bridge.config.store import ConfigStore

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int] | None


async def watch(store: ConfigStore, changed: Callable[[str], Awaitable[None]], period: float = 0.5) -> None:
    """Call ``changed(revision)`` for each new content that this process did not write; runs until cancelled.

    Polling, because inotify misses network file systems and files mounted one by one. Two equal looks `period` seconds
    apart make a change: an editor that writes in pieces is let finish. A content that was reported, good or bad, is not
    reported again; an error of `changed` is logged and the watch goes on.
    """
    seen: Stamp = None
    settled: Stamp = None
    reported = ""
    while True:
        await asyncio.sleep(period)
        now = await asyncio.to_thread(_stamp, store.path)
        if now != seen:
            seen = now
            continue
        if now == settled:
            continue
        settled = now
        revision = await asyncio.to_thread(store.disk_revision)
        before, reported = reported, revision
        if not revision or revision == before or store.written_here(revision):
            continue
        try:
            await changed(revision)
        except Exception:
            log.exception("the changed config file could not be applied")


def _stamp(path: Path) -> Stamp:
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino
    return None
