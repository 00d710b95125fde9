"""E1, E3 and E7 with real processes. Each prints the figure it promises."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from llm_bridge.engines.base import EngineSpec, RunningEngine
from llm_bridge.engines.llamacpp import explain
from llm_bridge.errors import BridgeError, ConnectFailed, EngineFailed
from llm_bridge.supervisor.backoff import Backoff
from llm_bridge.supervisor.child import Child, ChildFailed, Launch
from llm_bridge.supervisor.identity import identify
from tests.models.world import World, build, chat, world

ROOT = Path(__file__).parents[2]
CRASHES = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)


# -- E1: the engine crashes under load

KILLS = 50
CLIENTS = 4


async def test_e1_a_crash_costs_the_requests_on_it_and_nothing_else(tmp_path: Path) -> None:
    backoff = Backoff(first=0.01, ceiling=0.01, limit=10_000)
    ends: Counter[str] = Counter()
    async with world(tmp_path, backoff=backoff) as made:
        stop = asyncio.Event()
        clients = [asyncio.create_task(client(made, ends, stop)) for _ in range(CLIENTS)]
        for number in range(KILLS):
            async with made.pool.lease("first"):  # returns when an engine serves
                engine = made.engine.running[-1]
            await asyncio.sleep(random.uniform(0, 0.02))  # a random moment of the requests is what is tested here
            os.kill(engine.pid, CRASHES[number % len(CRASHES)])
            await engine.wait()
        stop.set()
        await asyncio.gather(*clients)
        assert (await made.ask("first"))["usage"]["completion_tokens"] == 2
        restarts = made.engine.starts - 1
        generation = made.manager.status()["generation"]
    assert ends["no end"] == 0
    assert ends["answered"] > 0
    assert restarts >= KILLS
    print(
        f"E1: {KILLS} crashes (KILL, SEGV, ABRT) under {CLIENTS} clients: manager alive, engine restarted {restarts} "
        f"times (generation {generation}), requests {sum(ends.values())}: answered {ends['answered']}, "
        f"failed with an error {ends['failed']}, without an end {ends['no end']}"
    )


async def client(made: World, ends: Counter[str], stop: asyncio.Event, alias: str | None = "first") -> None:
    """Asks until `stop`. Like the gateway it tries again when the connection was refused: nothing was sent then."""
    while not stop.is_set():
        try:
            async with asyncio.timeout(20), made.pool.lease(alias) as route:
                await chat(route, max_tokens=60)
        except ConnectFailed:
            await asyncio.sleep(0.02)
        except BridgeError:
            ends["failed"] += 1
        except TimeoutError:
            ends["no end"] += 1
        else:
            ends["answered"] += 1


# -- E5: switches under load

SWITCHES = 12


async def test_e5_no_request_fails_while_models_are_switched(tmp_path: Path) -> None:
    ends: Counter[str] = Counter()
    async with world(tmp_path) as made:
        await made.ask()
        stop = asyncio.Event()
        clients = [asyncio.create_task(client(made, ends, stop, alias=None)) for _ in range(CLIENTS)]
        for number in range(SWITCHES):
            model = made.names[number % len(made.names)]
            await made.manager.add(model, f"ollama/{model}", apply=True)
        stop.set()
        await asyncio.gather(*clients)
    assert (ends["failed"], ends["no end"]) == (0, 0)
    print(f"E5: {SWITCHES} switches under {CLIENTS} clients: failed {ends['failed']} of {sum(ends.values())} requests")


# -- E3: an engine that exits at once


class Hopeless:
    """An engine whose process says something and exits, every time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def start(self, spec: EngineSpec) -> RunningEngine:
        code = "import sys; sys.exit('0.00.001 E the weights are cursed')"
        child = await Child.start(Launch("engine", (sys.executable, "-I", "-c", code), {}, {}, self._folder))
        try:
            await child.ready(10)
        except ChildFailed as failure:
            raise EngineFailed(reason=explain(failure.reason, failure.tail, loading=True)) from None
        finally:
            await child.stop(0)
        raise AssertionError("it greeted")


async def test_e3_an_engine_that_exits_at_once_is_given_up_with_its_words(tmp_path: Path) -> None:
    backoff = Backoff(first=0.02)
    async with world(tmp_path, engine=Hopeless(tmp_path / "run"), backoff=backoff) as made:
        with pytest.raises(EngineFailed, match="the weights are cursed"):
            await made.ask("first")
        status = made.manager.status()
        assert (status["engine"], status["failures"]) == ("failed", 5)
        assert "the weights are cursed" in status["last_error"]["ja"]
        began = time.monotonic()
        with pytest.raises(EngineFailed):
            await made.ask("first")
        assert time.monotonic() - began < 1, "no waiting for what was given up"
        async with made.pool.lease("far") as route:
            assert route.lane == "direct"
        assert made.engine.starts == 5
        with pytest.raises(EngineFailed, match="cursed"):
            await made.manager.reload()
        assert made.engine.starts == 6, "a reload is a new attempt, once"
        assert made.manager.status()["engine"] == "failed"
    print("E3: an engine that exits at once: starts 5 (limit 15), then failed, API models still routed")


# -- E7: the parent is killed

TRIES = 20
PARALLEL = 4
GONE = 2.0


def test_e7_no_engine_outlives_its_bridge(tmp_path: Path) -> None:
    """Kills at random, half of them while the engine is still loading."""
    random.seed(7)
    homes = [tmp_path / str(n) for n in range(PARALLEL)]
    for home in homes:
        build(home)
    orphans, seen, slowest = 0, 0, 0.0
    for _ in range(TRIES // PARALLEL):
        with bridges(homes) as running:
            for index, bridge in enumerate(running):
                assert bridge.stdout is not None
                if index % 2:
                    bridge.stdout.readline()  # it serves
                else:
                    time.sleep(random.uniform(0.25, 0.5))  # somewhere between its import and its first answer
                bridge.send_signal(signal.SIGSTOP)  # no child can appear after the look at its children
                children = psutil.Process(bridge.pid).children(recursive=True)
                handles = [os.pidfd_open(child.pid) for child in children]
                bridge.kill()
                began = time.monotonic()
                seen += len(children)
                orphans += sum(not select.select([handle], [], [], GONE)[0] for handle in handles)
                slowest = max(slowest, time.monotonic() - began)
                for handle in handles:
                    os.close(handle)
    assert orphans == 0
    assert seen >= TRIES // 2
    print(f"E7: {TRIES} tries, engines seen {seen}, orphans {orphans}, slowest end {slowest:.3f} s (limit {GONE:g} s)")


@contextmanager
def bridges(homes: list[Path]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """One bridge for each home, started at once."""
    command = [sys.executable, "-m", "tests.models.bridge_process"]
    running = [subprocess.Popen([*command, str(home)], cwd=ROOT, stdout=subprocess.PIPE) for home in homes]
    try:
        yield running
    finally:
        for bridge in running:
            bridge.kill()
            bridge.wait()
            if bridge.stdout is not None:
                bridge.stdout.close()


async def test_e7_the_next_start_reaps_what_was_left(tmp_path: Path) -> None:
    """A child that neither reads its stdin nor asked for the kernel's signal: only the record finds it."""
    owner = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from llm_bridge.supervisor.child import Child, Launch\n"
        "async def main():\n"
        "    code = 'import signal; print(\"{}\", flush=True); signal.pause()'\n"
        "    child = await Child.start(Launch('engine', (sys.executable, '-c', code), {}, {}, Path(sys.argv[1])))\n"
        "    await child.ready(10)\n"
        "    print(child.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    bridge = await asyncio.create_subprocess_exec(
        sys.executable, "-c", owner, str(tmp_path / "run"), stdout=asyncio.subprocess.PIPE
    )
    assert bridge.stdout is not None
    left = int(await bridge.stdout.readline())
    bridge.kill()
    await bridge.wait()
    assert identify(left) is not None, "this one does not watch its parent"
    async with world(tmp_path) as made:
        await made.ask("first")
        assert identify(left) is None
