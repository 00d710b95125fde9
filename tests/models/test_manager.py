"""Adding, switching, removing and reloading, with the real engine."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from llm_bridge.config.store import ConfigStore
from llm_bridge.errors import (
    BadRequest,
    BridgeError,
    ConfigInvalid,
    EngineFailed,
    ModelNotConfigured,
    ModelNotFound,
    ProviderModelForm,
    Refused,
    RevisionMismatch,
)
from llm_bridge.supervisor.backoff import Backoff
from llm_bridge.supervisor.identity import identify
from tests.models.world import CONFIG, World, chat, world

QUICK = Backoff(first=0.01, ceiling=0.01, limit=1000)


def alive(made: World) -> int:
    """Engine processes that still run."""
    return sum(identify(engine.pid) is not None for engine in made.engine.running)


async def test_starts_with_the_local_model_of_the_config(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        assert made.pool.names() == ("first", "far")
        answer = await made.ask("first")
        assert answer["usage"]["completion_tokens"] == 2
        assert made.manager.ready
        status = made.manager.status()
        assert (status["engine"], status["model"], status["generation"]) == ("ready", "bridge-mini", 1)
    assert alive(made) == 0


async def test_a_new_local_model_takes_the_place_of_the_old(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.ask("first")
        outcome = await made.manager.add("second", "ollama/a", apply=True)
        assert (outcome.operation, outcome.local, outcome.applied) == ("追加", True, True)
        assert outcome.removed == ("first",)
        assert outcome.generation == 2
        assert outcome.revision == made.store.current.revision
        assert made.pool.names() == ("second", "far")
        assert "# an API model" in made.config
        assert "ollama/bridge-mini" not in made.config
        await made.ask("second")
        with pytest.raises(ModelNotFound):
            await made.ask("first")
        await made.engine.running[0].wait()
        assert alive(made) == 1


async def test_a_running_stream_ends_on_the_old_engine(tmp_path: Path) -> None:
    async with world(tmp_path) as made, made.pool.lease("first") as old:
        async with made.pool.lease("first") as route:
            running = asyncio.create_task(chat(route, max_tokens=400))
            await made.manager.add("second", "ollama/a", apply=True)
            async with made.pool.lease("second") as new:
                assert new.generation == old.generation + 1
            assert (await running)["usage"]["completion_tokens"] == 400
        assert identify(made.engine.running[0].pid) is not None, "a lease is still out"
        assert (await chat(old))["usage"]["completion_tokens"] == 2


async def test_a_failed_load_leaves_the_old_one_serving(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.ask("first")
        await asyncio.to_thread(made.damage, "a")
        with pytest.raises(EngineFailed, match="has wrong shape"):
            await made.manager.add("second", "ollama/a", apply=True)
        assert made.config == CONFIG
        assert made.pool.names() == ("first", "far")
        await made.ask("first")
        status = made.manager.status()
        assert status["engine"] == "ready"
        assert "has wrong shape" in status["last_error"]["ja"]
        assert alive(made) == 1
        await made.manager.add("third", "ollama/b", apply=True)
        assert made.manager.status()["last_error"] is None


async def test_a_file_that_is_no_model_is_refused_before_anything_starts(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.ask("first")
        model = made.catalogue.find("a")
        assert model is not None
        model.path.chmod(0o600)
        await asyncio.to_thread(model.path.write_bytes, b"\0" * model.size)
        with pytest.raises(EngineFailed, match="not a usable GGUF"):
            await made.manager.add("second", "ollama/a", apply=True)
        assert made.engine.starts == 1


async def test_a_model_that_is_not_here_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        with pytest.raises(Refused, match="has not been downloaded"):
            await made.manager.add("x", "ollama/nowhere", apply=True)
        assert made.config == CONFIG
        outcome = await made.manager.add("x", "ollama/nowhere", apply=False)
        assert not outcome.applied
        assert made.pool.names() == ("first", "far")


@pytest.mark.parametrize(("name", "provider_model"), [("x", "nonsense"), ("", "ollama/a"), ("a\nb", "ollama/a")])
async def test_bad_arguments(tmp_path: Path, name: str, provider_model: str) -> None:
    async with world(tmp_path) as made:
        with pytest.raises((ProviderModelForm, BadRequest)):
            await made.manager.add(name, provider_model, apply=True)
        assert made.config == CONFIG


async def test_api_models_come_and_go_without_touching_the_engine(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.ask("first")
        added = await made.manager.add("new", "openai/gpt-new", apply=True)
        assert (added.local, added.removed, added.generation) == (False, (), 1)
        assert (await made.manager.switch("new", apply=True)).operation == "切り替え"
        assert made.pool.names()[0] == "new"
        assert (await made.manager.remove("new")).removed == ("new",)
        assert made.engine.starts == 1
        for unknown in (made.manager.remove("new"), made.manager.switch("new", apply=True)):
            with pytest.raises(ModelNotConfigured):
                await unknown


async def test_another_name_for_the_same_model_is_what_its_answers_say(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        assert (await made.ask("first"))["model"] == "first"
        await made.manager.add("renamed", "ollama/bridge-mini", apply=True)
        assert (await made.ask("renamed"))["model"] == "renamed"
        assert made.pool.names() == ("renamed", "far")


async def test_what_runs_already_is_not_started_again(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.ask("first")
        await made.manager.add("first", "ollama/bridge-mini", apply=True)
        await made.manager.switch("first", apply=True)
        await made.manager.reload()
        assert made.engine.starts == 1


async def test_removing_the_local_model_stops_its_engine(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.ask("first")
        outcome = await made.manager.remove("first")
        assert (outcome.local, outcome.removed, outcome.generation) == (True, ("first",), 0)
        await made.engine.running[0].wait()
        assert made.manager.status()["engine"] == "empty"
        assert made.manager.ready
        await made.manager.add("again", "ollama/a", apply=True)
        await made.ask("again")


async def test_no_restart_writes_and_reload_applies(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.ask("first")
        outcome = await made.manager.add("second", "ollama/a", apply=False)
        assert (outcome.applied, outcome.removed) == (False, ("first",))
        assert "ollama/a" in made.config
        await made.ask("first")
        assert (await made.manager.reload()).operation == "再読み込み"
        await made.ask("second")


async def test_a_reload_of_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.ask("first")
        await asyncio.to_thread(made.write, "model_list: [")
        with pytest.raises(ConfigInvalid):
            await made.manager.reload()
        await made.ask("first")


async def test_the_whole_config_at_once_and_back(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.ask("first")
        before = made.store.current.revision
        text = CONFIG.replace("first", "second").replace("bridge-mini", "a")
        with pytest.raises(RevisionMismatch):
            await made.manager.put_config(text, "0" * 16)
        outcome = await made.manager.put_config(text, before)
        assert outcome.removed == ("first",)
        await made.ask("second")
        await made.manager.rollback(before, outcome.revision)
        assert made.config == CONFIG
        await made.ask("first")
        assert made.engine.starts == 3


async def test_the_last_accepted_wins(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.ask("first")
        orders = [("a", "x"), ("b", "y"), ("c", "z"), ("a", "x"), ("b", "last")]
        results = await asyncio.gather(
            *(made.manager.add(name, f"ollama/{model}", apply=True) for model, name in orders), return_exceptions=True
        )
        assert not isinstance(results[-1], BaseException)
        assert all(not isinstance(r, BaseException) or isinstance(r, Refused) for r in results), results
        assert made.pool.names() == ("last", "far")
        await made.ask("last")
        config = await asyncio.to_thread(ConfigStore(made.store.path, made.home).read)
        assert [entry.name for entry in config.models] == ["last", "far"]
        assert made.manager.status()["model"] == "b"


async def test_a_later_switch_ends_the_load_of_an_earlier_one(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.ask("first")
        made.engine.close()
        stuck = asyncio.create_task(made.manager.add("x", "ollama/a", apply=True))
        await made.engine.entered.wait()
        later = asyncio.create_task(made.manager.add("y", "ollama/b", apply=True))
        with pytest.raises(Refused, match="later switch took precedence"):
            await stuck
        made.engine.open.set()
        await later
        assert made.pool.names() == ("y", "far")
        assert made.manager.status()["model"] == "b"


async def test_a_caller_that_gives_up_does_not_abort_the_switch(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.ask("first")
        made.engine.close()
        caller = asyncio.create_task(made.manager.add("x", "ollama/a", apply=True))
        await made.engine.entered.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        made.engine.open.set()
        await made.engine.running[0].wait()  # the old engine is stopped last
        assert made.pool.names() == ("x", "far")
        await made.ask("x")


async def test_api_models_can_be_changed_during_a_long_load(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.ask("first")
        made.engine.close()
        loading = asyncio.create_task(made.manager.add("x", "ollama/a", apply=True))
        await made.engine.entered.wait()
        await made.manager.add("new", "openai/gpt-new", apply=True)
        assert made.pool.names() == ("first", "far", "new")
        made.engine.open.set()
        await loading
        assert made.pool.names() == ("x", "far", "new")


async def test_removing_the_local_model_ends_a_load(tmp_path: Path) -> None:
    async with world(tmp_path) as made:
        await made.ask("first")
        made.engine.close()
        loading = asyncio.create_task(made.manager.add("x", "ollama/a", apply=True))
        await made.engine.entered.wait()
        await made.manager.remove("first")
        with pytest.raises(Refused):
            await loading
        assert made.pool.names() == ("far",)
        assert made.manager.status()["engine"] == "empty"


@pytest.mark.parametrize("candidate", ["serves", "fails"])
async def test_the_old_engine_dies_during_a_load(tmp_path: Path, candidate: str) -> None:
    """Requests wait: for the new engine, or if that fails for the old one's restart."""
    async with world(tmp_path, backoff=QUICK) as made:
        await made.ask("first")
        if candidate == "fails":
            await asyncio.to_thread(made.damage, "a")
        made.engine.close()
        loading = asyncio.create_task(made.manager.add("first", "ollama/a", apply=True))
        await made.engine.entered.wait()
        os.kill(made.engine.running[0].pid, signal.SIGKILL)
        await made.engine.running[0].wait()
        waiting = asyncio.create_task(made.ask("first"))
        made.engine.open.set()
        if candidate == "fails":
            with pytest.raises(EngineFailed):
                await loading
        else:
            await loading
        await waiting
        assert made.manager.status()["model"] == ("bridge-mini" if candidate == "fails" else "a")


async def test_a_missing_model_at_the_start_does_not_keep_the_rest_from_working(tmp_path: Path) -> None:
    text = CONFIG.replace("bridge-mini", "nowhere")
    await asyncio.to_thread((tmp_path / "config.yaml").write_text, text)
    async with world(tmp_path) as made:
        with pytest.raises(EngineFailed, match="has not been downloaded"):
            await made.ask("first")
        async with made.pool.lease("far") as route:
            assert (route.lane, route.model) == ("direct", "gpt-far")
        assert not made.manager.ready
        await made.manager.add("new", "openai/gpt-new", apply=True)
        await made.manager.add("first", "ollama/a", apply=True)
        await made.ask("first")


async def test_a_dead_engine_is_tried_again_by_a_switch_to_it(tmp_path: Path) -> None:
    async with world(tmp_path, backoff=Backoff(limit=1)) as made:
        await made.ask("first")
        os.kill(made.engine.running[0].pid, signal.SIGSEGV)
        await made.engine.running[0].wait()
        await made.until("failed")
        with pytest.raises(EngineFailed, match="SIGSEGV"):
            await made.ask("first")
        await made.manager.switch("first", apply=True)
        await made.ask("first")


async def test_closing_cuts_what_does_not_end_in_time(tmp_path: Path) -> None:
    async with world(tmp_path) as made, made.pool.lease("first") as route:
        os.kill(made.engine.running[0].pid, signal.SIGSTOP)  # it will neither answer nor obey SIGTERM
        running = asyncio.create_task(chat(route))
        await made.manager.close(0)
        with pytest.raises(BridgeError):
            await running
    assert alive(made) == 0
