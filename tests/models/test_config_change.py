"""A new configuration while its local model does not run: it is applied, and the answer says what is missing."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from llm_bridge.engines.base import Engine, EngineSpec, RunningEngine
from llm_bridge.engines.llamacpp import LlamaCpp
from llm_bridge.errors import EngineFailed, Refused, RevisionMismatch
from llm_bridge.supervisor.backoff import Backoff
from tests.models.world import CONFIG, World, world
from tests.support.tiny_gguf import write_tiny_gguf

ONCE = Backoff(first=0.01, limit=1)
MORE = CONFIG + "  - model_name: more\n    litellm_params: {model: openai/gpt-more}\n"
ABSENT = CONFIG.replace("bridge-mini", "nowhere")
ABSENT_MORE = MORE.replace("bridge-mini", "nowhere")


class Moody:
    """An engine that does not start while it is in a mood."""

    def __init__(self, home: Path) -> None:
        self._inner: Engine = LlamaCpp(dict(os.environ), home)
        self.moody = True

    async def start(self, spec: EngineSpec) -> RunningEngine:
        if self.moody:
            raise EngineFailed(reason=("不機嫌", "in a mood"))
        return await self._inner.start(spec)


def is_applied(made: World, text: str) -> bool:
    """Whether `text` is what lies on disk and what runs."""
    return made.config == text and made.store.current.revision == made.store.disk_revision()


async def test_a_failed_engine_does_not_keep_a_config_from_being_applied(tmp_path: Path) -> None:
    engine = Moody(tmp_path)
    async with world(tmp_path, engine=engine, backoff=ONCE) as made:
        await made.until("failed")
        first = made.store.current.revision
        put = await made.manager.put_config(MORE, first)
        assert put.warning == (
            "ローカルエンジンを利用できません: 不機嫌",
            "The local engine is not available: in a mood",
        )
        assert is_applied(made, MORE)
        assert put.revision == made.store.current.revision
        assert made.pool.names() == ("first", "far", "more")
        assert (made.manager.status()["engine"], made.manager.status()["last_error"]["ja"]) == (
            "failed",
            "ローカルエンジンを利用できません: 不機嫌",
        )
        with pytest.raises(RevisionMismatch):
            await made.manager.put_config(CONFIG, first)
        assert is_applied(made, MORE)
        back = await made.manager.rollback(first, put.revision)
        assert (back.warning is not None, back.removed, back.revision) == (True, ("more",), first)
        assert is_applied(made, CONFIG)
        assert (await made.manager.put_config(MORE, None)).warning
        engine.moody = False
        tried = await made.manager.put_config(CONFIG, made.store.disk_revision())
        assert tried.warning is None
        assert is_applied(made, CONFIG)
        await made.ask("first")
        assert made.manager.status()["last_error"] is None


async def test_a_reload_that_is_only_a_new_attempt_answers_with_its_failure(tmp_path: Path) -> None:
    async with world(tmp_path, engine=Moody(tmp_path), backoff=ONCE) as made:
        await made.until("failed")
        with pytest.raises(EngineFailed, match="in a mood"):
            await made.manager.reload()
        await asyncio.to_thread(made.write, MORE)
        assert (await made.manager.reload()).warning
        assert is_applied(made, MORE)
        with pytest.raises(EngineFailed, match="in a mood"):
            await made.manager.reload()


async def test_another_local_model_that_fails_still_changes_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, engine=Moody(tmp_path), backoff=ONCE) as made:
        await made.until("failed")
        with pytest.raises(EngineFailed, match="in a mood"):
            await made.manager.put_config(MORE.replace("bridge-mini", "a"), None)
        with pytest.raises(Refused, match="downloaded"):
            await made.manager.put_config(ABSENT_MORE, None)
        assert is_applied(made, CONFIG)


async def test_a_missing_model_does_not_keep_a_config_from_being_applied(tmp_path: Path) -> None:
    await asyncio.to_thread((tmp_path / "config.yaml").write_text, ABSENT)
    async with world(tmp_path) as made:
        first = made.store.current.revision
        await asyncio.to_thread(made.write, ABSENT_MORE)
        outcome = await made.manager.reload()
        assert outcome.warning and "has not been downloaded" in outcome.warning[1]
        assert is_applied(made, ABSENT_MORE)
        assert made.pool.names() == ("first", "far", "more")
        assert "has not been downloaded" in made.manager.status()["last_error"]["en"]
        assert (await made.manager.rollback(first, outcome.revision)).removed == ("more",)
        assert (await made.manager.put_config(ABSENT_MORE, first)).warning
        assert is_applied(made, ABSENT_MORE)
        with pytest.raises(Refused, match="has not been downloaded"):
            await made.manager.reload()
        with pytest.raises(Refused, match="has not been downloaded"):
            await made.manager.switch("first", apply=True)
        await asyncio.to_thread(write_tiny_gguf, made.settings.imports / "n.gguf")
        await asyncio.to_thread(made.catalogue.import_file, Path("n.gguf"), made.settings.imports, "nowhere")
        assert (await made.manager.reload()).warning is None
        await made.ask("first")
