"""The watcher reports changes by others, once each, and nothing of our own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from llm_bridge.config import first
from llm_bridge.config.store import ConfigStore
from llm_bridge.config.watch import watch
from llm_bridge.errors import ConfigInvalid

PERIOD = 0.02
SETTLED = 0.3


@contextlib.asynccontextmanager
async def watched(store: ConfigStore, *, failing: bool = False) -> AsyncIterator[list[str]]:
    seen: list[str] = []

    async def changed(revision: str) -> None:
        seen.append(revision)
        if failing:
            raise ConfigInvalid(problems="x")
        store.adopt(await asyncio.to_thread(store.read))

    task = asyncio.create_task(watch(store, changed, PERIOD))
    try:
        await asyncio.sleep(SETTLED)
        yield seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_changes_by_others_are_reported_once(tmp_path: Path) -> None:
    store = ConfigStore(tmp_path / "config.yaml", tmp_path)
    store.open()
    async with watched(store) as seen:
        assert seen == []
        await asyncio.to_thread(store.path.write_text, first.TEXT + "# mine\n")
        await asyncio.sleep(SETTLED)
        assert seen == [store.disk_revision()] == [store.current.revision]
        await asyncio.to_thread(store.path.write_text, first.TEXT)
        await asyncio.sleep(SETTLED)
        assert len(seen) == 2
        store.path.touch()
        await asyncio.sleep(SETTLED)
        assert len(seen) == 2


async def test_our_own_edits_are_not_reported(tmp_path: Path) -> None:
    store = ConfigStore(tmp_path / "config.yaml", tmp_path)
    store.open()
    async with watched(store) as seen:
        await asyncio.to_thread(store.replace_text, first.TEXT + "# ours\n")
        await asyncio.sleep(SETTLED)
        assert seen == []


async def test_a_bad_change_is_reported_once_and_its_repair_too(tmp_path: Path) -> None:
    store = ConfigStore(tmp_path / "config.yaml", tmp_path)
    store.open()
    async with watched(store, failing=True) as seen:
        for text in ("model_list: [\n", first.TEXT + "# repaired\n"):
            await asyncio.to_thread(store.path.write_text, text)
            await asyncio.sleep(SETTLED)
        assert len(seen) == 2
