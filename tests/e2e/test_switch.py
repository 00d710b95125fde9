"""E5: the model is switched under load and no request notices; a load that fails changes nothing."""

import asyncio
import threading
from pathlib import Path

import pytest

from tests.support.bridge import Bridge, call, running
from tests.support.load import Record, open_loop
from tests.support.stack import run
from tests.support.tiny_gguf import write_tiny_gguf

SWITCHES = 50
RATE = 50.0  # calls per second


def import_tiny(bridge: Bridge, name: str, seed: int) -> None:
    write_tiny_gguf(bridge.home / "import" / f"{name}.gguf", seed=seed, name=name)
    reply = call(f"{bridge.admin}/models/import", {"path": f"{name}.gguf", "name": name})
    assert reply.status in (200, 201), reply.body


def switch(bridge: Bridge, model: str) -> tuple[int, bytes]:
    reply = call(f"{bridge.admin}/models/manage", {"model_name": "local", "provider_model": f"ollama/{model}"})
    return reply.status, reply.body


@pytest.mark.timeout(240)
def test_fifty_switches_under_fifty_requests_a_second(tmp_path: Path) -> None:
    record = Record()
    with running(tmp_path) as bridge:
        for seed, name in enumerate(("one", "two")):
            import_tiny(bridge, name, seed)
        served: set[str] = set()

        async def work() -> None:
            stop = asyncio.Event()
            port = int(bridge.facts["gateway"])
            load = asyncio.create_task(open_loop(port, RATE, stop, record))
            try:
                for number in range(SWITCHES):
                    status, body = await asyncio.to_thread(switch, bridge, ("one", "two")[number % 2])
                    assert status == 200, body
                    reply = await asyncio.to_thread(bridge.chat, "hi", max_tokens=8, model="local")
                    served.add(reply.json["choices"][0]["message"]["content"])
            finally:
                stop.set()
                await load

        run(work(), seconds=200)
        generation = bridge.status()["engine"]["details"]["generation"]
    failed = len(record.failures)
    print(
        f"E5: {SWITCHES} switches, {record.total} calls at {RATE:.0f}/s (half streams), failed {failed}, "
        f"p50 {record.percentile(0.5) * 1000:.0f} ms, p99 {record.percentile(0.99) * 1000:.0f} ms"
    )
    assert record.failures == []
    assert generation == SWITCHES + 1
    assert len(served) == 2, "the two models answer differently, so both must have been seen"


def test_a_load_that_fails_leaves_the_old_model_serving(tmp_path: Path) -> None:
    with running(tmp_path) as bridge:
        import_tiny(bridge, "good", 1)
        assert switch(bridge, "good")[0] == 200
        before = bridge.chat("hi", max_tokens=8).json["choices"][0]["message"]["content"]
        config = (bridge.home / "config.yaml").read_bytes()
        path = bridge.home / "import" / "bad.gguf"
        write_tiny_gguf(path, seed=9, name="bad")
        data = bytearray(path.read_bytes())
        del data[-len(data) // 3 :]  # the header is good, the tensors end too early
        path.write_bytes(data)
        call(f"{bridge.admin}/models/import", {"path": "bad.gguf", "name": "bad"})
        status, body = switch(bridge, "bad")
        assert status in (404, 422, 503), body
        assert b"Traceback" not in body
        assert bridge.chat("hi", max_tokens=8).json["choices"][0]["message"]["content"] == before
        assert (bridge.home / "config.yaml").read_bytes() == config


def test_a_client_that_gives_up_does_not_abort_the_switch(tmp_path: Path) -> None:
    with running(tmp_path) as bridge:
        import_tiny(bridge, "late", 3)
        import socket

        body = b'{"model_name":"local","provider_model":"ollama/late"}'
        with socket.create_connection(("127.0.0.1", int(bridge.facts["admin"]))) as sock:
            sock.sendall(
                b"POST /models/manage HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )
            threading.Event().wait(0.1)
        for _ in range(100):
            if bridge.status()["engine"]["details"]["model"] == "late":
                break
            threading.Event().wait(0.1)
        assert bridge.status()["engine"]["details"]["model"] == "late"
        assert bridge.chat("hi", model="local", max_tokens=2).status == 200
