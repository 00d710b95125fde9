"""E1, E7, E8, E10: what happens to processes: engines that die, bridges that are killed, stopped, or started twice."""

import asyncio
import os
import random
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.support.bridge import Bridge, call, environment, running, spawn, until, wait_ready
from tests.support.load import Record, one, open_loop
from tests.support.stack import post, read_answer, run
from tests.support.tiny_gguf import write_tiny_gguf

LONG = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1000}


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def replaced(bridge: Bridge, pid: int) -> None:
    until(lambda: bridge.status()["engine"]["pid"] not in (pid, None), "a new engine")


def test_an_engine_that_dies_is_replaced_and_every_request_ends(tmp_path: Path) -> None:
    """E1: three ways to die, under load; failed calls are allowed, calls without an end are not."""
    record = Record()
    rounds = 4  # the fifth failure in a row would be the last: that is promise E3
    with running(tmp_path) as bridge:

        async def work() -> None:
            stop = asyncio.Event()
            load = asyncio.create_task(open_loop(int(bridge.facts["gateway"]), 30.0, stop, record))
            try:
                for number in range(rounds):
                    pid = await asyncio.to_thread(bridge.engine_pid)
                    os.kill(pid, (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)[number % 3])
                    await asyncio.to_thread(replaced, bridge, pid)
            finally:
                stop.set()
                await load

        before = bridge.process.pid
        run(work(), seconds=100)
        endless = [reason for reason in record.failures if "cut off" in reason or "terminal events" in reason]
        assert bridge.chat("hi", max_tokens=2).status == 200
        assert (bridge.process.poll(), bridge.process.pid) == (None, before)
    failed, total = len(record.failures), record.total
    print(f"E1: {rounds} engine deaths, {total} calls, failed {failed}, without an end {len(endless)}")
    assert endless == []


def kill_at_random_moments(home: Path, seed: int, tries: int) -> tuple[int, int]:
    """Start and kill -9 a bridge again and again on the same ports; returns (orphans, failed starts)."""
    rng = random.Random(seed)
    orphans = binds = 0
    environ = environment(home, gateway=f"127.0.0.1:{free_port()}", admin=f"127.0.0.1:{free_port()}")
    for number in range(tries):
        bridge = spawn(home, environ)
        if number % 4 == 0:
            wait_ready(bridge)
        else:
            time.sleep(rng.uniform(0.05, 1.0))
        binds += bridge.process.poll() is not None
        children = psutil.Process(bridge.process.pid).children(recursive=True) if bridge.process.poll() is None else []
        bridge.process.kill()
        bridge.process.wait(10)
        psutil.wait_procs(children, timeout=2)
        orphans += sum(not gone(child.pid) for child in children)
    with running(home, environ) as bridge:
        assert bridge.chat("hi", max_tokens=2).status == 200
    return orphans, binds


def test_nothing_outlives_a_killed_bridge(tmp_path: Path) -> None:
    """E7: kill -9 at random moments of the life; the engine is gone within two seconds and the next start works."""
    homes, tries = 4, 5
    with ThreadPoolExecutor(homes) as pool:
        results = list(pool.map(lambda n: kill_at_random_moments(tmp_path / str(n), n, tries), range(homes)))
    orphans, binds = (sum(column) for column in zip(*results, strict=True))
    print(f"E7: {homes * tries} kills, orphans {orphans}, bind failures {binds}")
    assert (orphans, binds) == (0, 0)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def long_model(bridge: Bridge) -> None:
    """A model that goes on for seconds: it never ends by itself."""
    write_tiny_gguf(bridge.home / "import" / "long.gguf", name="long", context=4096)
    call(f"{bridge.admin}/models/import", {"path": "long.gguf", "name": "long"})
    reply = call(f"{bridge.admin}/models/manage", {"model_name": "long", "provider_model": "ollama/long"})
    assert reply.status == 200, reply.body


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_requests_finish(tmp_path: Path, number: int) -> None:
    """E8: under load, nothing is reset, running requests end well, the exit code is 0."""
    resets = 0
    stops = 7 if number == signal.SIGTERM else 3
    slowest = 0.0
    grace = 25

    async def stop_under_load(bridge: Bridge) -> tuple[Record, float]:
        record = Record()
        port = int(bridge.facts["gateway"])
        calls = [asyncio.create_task(one(port, {**LONG, "stream": n % 2 == 0}, record)) for n in range(8)]
        await asyncio.to_thread(until, lambda: bridge.status()["engine"]["details"]["in_flight"] >= 6, "they run")
        began = time.monotonic()
        code = await asyncio.to_thread(bridge.stop, number)
        took = time.monotonic() - began
        await asyncio.gather(*calls)
        assert code == 0, bridge.log.read_text()
        return record, took

    for _ in range(stops):
        with running(tmp_path, grace=str(grace)) as bridge:
            long_model(bridge)
            record, took = run(stop_under_load(bridge))
            resets += len(record.failures)
            slowest = max(slowest, took)
            assert record.failures == []
    print(f"E8: {stops} stops under load, resets {resets}, slowest {slowest:.1f} s (grace {grace})")
    assert slowest <= grace + 1


def test_what_does_not_end_in_time_gets_an_error_event(tmp_path: Path) -> None:
    """E8: the grace is over, the stream ends with exactly one error event, the process with 0."""

    async def work(bridge: Bridge) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(bridge.facts["gateway"]))
        try:
            os.kill(bridge.engine_pid(), signal.SIGSTOP)  # an engine that does not go on
            writer.write(post({**LONG, "stream": True}))
            await asyncio.sleep(0.2)
            began = time.monotonic()
            code = await asyncio.to_thread(bridge.stop)
            assert code == 0, bridge.log.read_text()
            assert time.monotonic() - began <= 3
            answer = await read_answer(reader)
            assert answer.whole
            assert answer.status == 503
            assert answer.headers["retry-after"] == "5"
            return answer.body
        finally:
            writer.transport.abort()

    with running(tmp_path, grace="1") as bridge:
        assert "停止" in run(work(bridge)).decode()


def test_while_it_stops_it_says_so(tmp_path: Path) -> None:
    """E8: readiness is 503 at once and new calls are told to come back, while running ones go on."""
    with running(tmp_path, grace="20") as bridge:
        long_model(bridge)
        with ThreadPoolExecutor(1) as pool:
            running_call = pool.submit(bridge.chat, "hello", max_tokens=2000)
            until(lambda: bridge.status()["engine"]["details"]["in_flight"] == 1, "it runs")
            bridge.process.send_signal(signal.SIGTERM)
            until(lambda: call(f"{bridge.gateway}/health/readiness").status == 503, "readiness says no", 2)
            refused = bridge.chat("hi")
            assert (refused.status, refused.headers["retry-after"]) == (503, "5")
            assert running_call.result().status == 200
        assert bridge.process.wait(10) == 0


def test_a_client_that_leaves_frees_the_engine(tmp_path: Path) -> None:
    """D1 with the real engine: one slot, a generation of seconds, a hang-up, and the next call is served at once.

    Our side ends in milliseconds. llama.cpp looks once a second whether the client of a call that does not stream is
    still there, which is the second allowed on top.
    """
    waits: dict[bool, list[float]] = {True: [], False: []}

    async def leave(bridge: Bridge, *, stream: bool) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", int(bridge.facts["gateway"]))
        writer.write(post({**LONG, "max_tokens": 4000, "stream": stream}))
        await asyncio.to_thread(until, lambda: bridge.status()["engine"]["details"]["in_flight"] == 1, "it runs")
        writer.transport.abort()
        began = time.monotonic()
        await asyncio.to_thread(until, lambda: bridge.status()["engine"]["details"]["in_flight"] == 0, "it is free")
        assert (await asyncio.to_thread(bridge.chat, "hi", max_tokens=1)).status == 200
        waits[stream].append(time.monotonic() - began)

    with running(tmp_path, parallel="1") as bridge:
        long_model(bridge)
        for number in range(10):
            run(leave(bridge, stream=number % 2 == 0))
    streaming, whole = (max(waits[kind]) for kind in (True, False))
    print(f"D1: 10 hang-ups on the engine, next answer after {streaming * 1000:.0f} ms, not streaming {whole:.2f} s")
    assert streaming <= 1.0
    assert whole <= 2.0


def test_a_second_start_names_the_first(tmp_path: Path) -> None:
    """E10."""
    with running(tmp_path) as bridge:
        second = spawn(tmp_path, environment(tmp_path))
        assert second.process.wait(15) == 1
        assert f"pid {bridge.process.pid}" in second.log.read_text()
        assert bridge.chat("hi", max_tokens=2).status == 200


@pytest.mark.parametrize("name", ["gateway", "admin"])
def test_an_occupied_port_stops_the_whole_start(tmp_path: Path, name: str) -> None:
    """E10: all or nothing, and the holder is named."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        other = free_port()
        settings = {name: f"127.0.0.1:{port}", {"gateway": "admin", "admin": "gateway"}[name]: f"127.0.0.1:{other}"}
        bridge = spawn(tmp_path, environment(tmp_path, **settings))
        assert bridge.process.wait(15) == 1
        text = bridge.log.read_text()
        assert f"127.0.0.1:{port}" in text
        assert f"pid {os.getpid()}" in text
        assert f"LLM_BRIDGE_{name.upper()}" in text
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", other)) != 0


def test_litellms_master_key_locks_the_gateway(tmp_path: Path) -> None:
    home = tmp_path / "data"
    home.mkdir(mode=0o700)
    (home / "config.yaml").write_text(
        "model_list:\n  - model_name: m\n    litellm_params:\n      model: ollama/bridge-mini\n"
        "general_settings:\n  master_key: os.environ/MY_MASTER\n"
    )
    with running(tmp_path, {"MY_MASTER": "sk-canary-master"}) as bridge:
        assert bridge.chat("hi", max_tokens=2).status == 401
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        key = {"authorization": "Bearer sk-canary-master"}
        assert call(f"{bridge.gateway}/v1/chat/completions", body, headers=key).status == 200
        assert "sk-canary-master" not in bridge.log.read_text()
    nameless = spawn(tmp_path, environment(tmp_path))
    assert nameless.process.wait(15) != 0
    assert "MY_MASTER" in nameless.log.read_text()


def test_a_data_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, no folder")
    bridge = spawn(tmp_path, environment(tmp_path))
    assert bridge.process.wait(15) == 1
    text = bridge.log.read_text()
    assert str(tmp_path / "data") in text
    assert "LLM_BRIDGE_HOME" in text
    assert "Traceback" not in text


def test_an_engine_that_is_not_there_yet_is_refused(tmp_path: Path) -> None:
    bridge = spawn(tmp_path, environment(tmp_path, engine="ollama"))
    assert bridge.process.wait(15) != 0
    assert "LLM_BRIDGE_ENGINE=ollama" in bridge.log.read_text()


def test_a_public_bind_without_keys_refuses_to_start(tmp_path: Path) -> None:
    """A1."""
    bridge = spawn(tmp_path, environment(tmp_path, gateway="0.0.0.0:0"))
    assert bridge.process.wait(15) == 2
    text = bridge.log.read_text()
    assert "LLM_BRIDGE_API_KEY" in text
    assert "LLM_BRIDGE_ADMIN_KEY" in text
    assert "Traceback" not in text
