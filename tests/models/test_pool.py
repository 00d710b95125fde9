"""Leases: counted, waiting, refused. Upstreams here are real objects that never connect; engines are not needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_bridge.config.schema import Config, ModelEntry
from llm_bridge.engines.base import Text
from llm_bridge.errors import EngineFailed, MissingKey, ModelNotFound, Unavailable
from llm_bridge.models.generation import Generation
from llm_bridge.models.pool import Lease, Pool
from llm_bridge.settings import Settings
from llm_bridge.wire.client import Upstream

LOCAL = ModelEntry("here", "ollama", "tiny")
FAR = ModelEntry("far", "openai", "gpt-far", api_key="os.environ/FAR_KEY")
SETTINGS = Settings(home=Path("/nonexistent"), environ={"FAR_KEY": "sk-1"})


class NoEngine:
    """A `RunningEngine` that is none."""

    host, port, key, model, pid, context = "127.0.0.1", 9, "k", "tiny", 0, 512

    async def wait(self) -> Text:
        await asyncio.Event().wait()
        raise AssertionError

    async def stop(self) -> None:
        return


def generation(number: int = 1) -> Generation:
    return Generation(number, NoEngine(), Upstream("127.0.0.1", 9), 0.0)


def config(*entries: ModelEntry) -> Config:
    return Config(entries, "0" * 16, {})


@asynccontextmanager
async def pool(*entries: ModelEntry, queue: int = 256, deadline: float = 30.0) -> AsyncIterator[Pool]:
    made = Pool(SETTINGS, queue=queue, deadline=deadline)
    made.configure(config(*entries))
    try:
        yield made
    finally:
        await made.close()


async def turn() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_lease_is_counted_while_its_block_runs() -> None:
    async with pool(LOCAL) as made:
        serving = generation(7)
        made.serve(serving)
        async with made.lease("here") as route:
            assert (route.alias, route.lane, route.model, route.generation) == ("here", "local", "here", 7)
            assert route.upstream is serving.upstream
            assert serving.in_flight == 1
        assert serving.in_flight == 0
        with pytest.raises(ZeroDivisionError):
            async with made.lease("here"):
                raise ZeroDivisionError
        assert serving.in_flight == 0


@pytest.mark.parametrize("alias", [None, "", "default", "far"])
async def test_the_first_is_the_default(alias: str | None) -> None:
    async with pool(FAR, LOCAL) as made, made.lease(alias) as route:
        assert (route.alias, route.lane, route.model, route.generation) == ("far", "direct", "gpt-far", 0)


async def test_refused_requests_leave_nothing_behind() -> None:
    """One error object for all would keep the frames of every request that met it."""
    failure = EngineFailed(reason=("原因", "the cause"), param="model", retry_after=7)
    async with pool(LOCAL) as made:
        made.refuse(failure)
        met: list[EngineFailed] = []
        for _ in range(3):
            with pytest.raises(EngineFailed) as caught:
                async with made.lease("here"):
                    pass
            met.append(caught.value)
    assert len({id(error) for error in (failure, *met)}) == 4
    assert failure.__traceback__ is None
    assert {(e.text("ja"), e.text("en"), e.param, e.retry_after) for e in (failure, *met)} == {
        ("ローカルエンジンを利用できません: 原因", "The local engine is not available: the cause", "model", 7)
    }


async def test_unknown_names_and_missing_keys() -> None:
    keyless = ModelEntry("keyless", "openai", "gpt", api_key="os.environ/NOT_SET")
    async with pool(FAR, keyless) as made:
        assert made.names() == ("far", "keyless")
        with pytest.raises(ModelNotFound, match="far, keyless"):
            await made.lease("nope").__aenter__()
        with pytest.raises(MissingKey, match="NOT_SET"):
            await made.lease("keyless").__aenter__()


async def test_waiters_get_the_generation_that_becomes_ready() -> None:
    async with pool(LOCAL) as made:
        made.hold()
        leases = [made.lease("here") for _ in range(10)]
        tasks = [asyncio.create_task(lease.__aenter__()) for lease in leases]
        await turn()
        assert made.waiting == 10
        serving = generation()
        made.serve(serving)
        assert {route.generation for route in await asyncio.gather(*tasks)} == {1}
        assert (serving.in_flight, made.waiting) == (10, 0)


async def test_waiters_fail_when_the_engine_is_given_up() -> None:
    async with pool(LOCAL) as made:
        made.hold()
        task = asyncio.create_task(made.lease("here").__aenter__())
        await turn()
        made.refuse(EngineFailed(reason="broken"))
        with pytest.raises(EngineFailed, match="broken"):
            await task
        with pytest.raises(EngineFailed, match="broken"):
            await made.lease("here").__aenter__()


async def test_waiters_follow_a_change_of_the_configuration() -> None:
    async with pool(LOCAL, FAR) as made:
        made.hold()
        gone = asyncio.create_task(made.lease("here").__aenter__())
        first = asyncio.create_task(made.lease(None).__aenter__())
        await turn()
        made.configure(config(FAR))
        with pytest.raises(ModelNotFound):
            await gone
        assert (await first).alias == "far"


async def test_the_queue_is_bounded_and_has_a_deadline() -> None:
    async with pool(LOCAL, queue=2, deadline=0.01) as made:
        made.hold()
        waiting = [asyncio.create_task(made.lease("here").__aenter__()) for _ in range(2)]
        await turn()
        with pytest.raises(Unavailable, match="too many") as full:
            await made.lease("here").__aenter__()
        assert full.value.retry_after
        for task in waiting:
            with pytest.raises(Unavailable, match="not ready"):
                await task
        assert made.waiting == 0


async def test_a_waiter_that_leaves_leaves_the_queue() -> None:
    async with pool(LOCAL) as made:
        made.hold()
        task = asyncio.create_task(made.lease("here").__aenter__())
        await turn()
        task.cancel()
        await turn()
        assert task.cancelled()
        assert made.waiting == 0


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_cancelled_in_the_tick_of_its_grant(cancel_first: bool) -> None:
    """Nothing may be held by it, and the others must still be woken."""
    async with pool(LOCAL) as made:
        made.hold()
        leaving, staying = (asyncio.create_task(made.lease("here").__aenter__()) for _ in range(2))
        await turn()
        serving = generation()
        if cancel_first:
            leaving.cancel()
        made.serve(serving)
        if not cancel_first:
            leaving.cancel()
        await staying
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert serving.in_flight == 1


async def test_a_draining_generation_is_idle_after_its_last_lease() -> None:
    async with pool(LOCAL) as made:
        old = generation(1)
        made.serve(old)
        async with made.lease("here"):
            made.serve(generation(2))
            old.drain()
            assert not old.idle.is_set()
            async with made.lease("here") as route:
                assert route.generation == 2
        assert old.idle.is_set()
        with pytest.raises(RuntimeError, match="draining"):
            old.take()


async def test_an_upstream_is_shared_by_origin_and_outlives_the_config_while_it_is_used() -> None:
    twin = ModelEntry("twin", "openai", "gpt-twin", api_key="os.environ/FAR_KEY")
    other = ModelEntry("other", "openai", "gpt", api_key="sk-2")
    closed: list[Upstream] = []

    async def close(self: Upstream) -> None:
        closed.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Upstream, "close", close)
        async with pool(FAR, twin, other) as made:
            async with made.lease("far") as a, made.lease("twin") as b, made.lease("other") as c:
                assert a.upstream is b.upstream
                assert c.upstream is not a.upstream
                made.configure(config(twin))
                await turn()
                assert closed == []
            await turn()
            assert closed == [c.upstream], "nobody can ask for it any more"
            async with made.lease("twin") as again:
                assert again.upstream is a.upstream


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.just(0)),
        st.tuples(st.sampled_from(["leave", "cancel"]), st.integers(0, 30)),
        st.tuples(st.sampled_from(["serve", "hold", "refuse", "turn"]), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(ACTIONS)
def test_no_history_loses_or_invents_a_lease(actions: list[tuple[str, int]]) -> None:
    """Any order of entering, leaving, cancelling and switching: at the end every count is zero and drains end."""
    uvloop.run(history(actions))


async def history(actions: list[tuple[str, int]]) -> None:
    async with pool(LOCAL, queue=8) as made:
        generations: list[Generation] = []
        leases: list[tuple[Lease, asyncio.Task[object]]] = []
        for action, number in actions:
            if action == "enter":
                lease = made.lease("here")
                leases.append((lease, asyncio.create_task(lease.__aenter__())))
            elif action in ("leave", "cancel") and leases:
                await end(*leases.pop(number % len(leases)), cancel=action == "cancel")
            else:
                act(made, action, generations)
                if action == "turn":
                    await turn()
            entered = sum(task.done() and not task.cancelled() and task.exception() is None for _, task in leases)
            assert sum(one.in_flight for one in generations) == entered
        for lease, task in leases:
            await end(lease, task, cancel=True)
        if made.local is not None:
            made.local.drain()
        assert made.waiting == 0
        assert all(one.in_flight == 0 and one.idle.is_set() for one in generations)


def act(made: Pool, action: str, generations: list[Generation]) -> None:
    before = made.local
    if action == "serve":
        generations.append(generation(len(generations) + 1))
        made.serve(generations[-1])
    elif action == "hold":
        made.hold()
    elif action == "refuse":
        made.refuse(EngineFailed(reason="broken"))
    if before is not None and made.local is not before:
        before.drain()


async def end(lease: Lease, task: asyncio.Task[object], *, cancel: bool) -> None:
    if cancel or not task.done():
        task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and task.exception() is None:
        await lease.__aexit__(None, None, None)
