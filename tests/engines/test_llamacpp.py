"""The embedded engine, for real: every surface on one process, its endings, its secrets."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from llm_bridge.engines import cpu
from llm_bridge.engines.base import EngineSpec
from llm_bridge.engines.llamacpp import LlamaCpp, Running, useful_line
from llm_bridge.errors import EngineFailed
from llm_bridge.supervisor.child import Child
from llm_bridge.supervisor.identity import identify
from llm_bridge.wire.client import Upstream
from tests.engines.http import acall
from tests.support import tiny_gguf

MESSAGES = [{"role": "user", "content": "hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
    "required": ["ok", "kind"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_gguf.write_tiny_gguf(tmp_path / "tiny.gguf")


def spec(path: Path, parallel: int = 2) -> EngineSpec:
    return EngineSpec("tiny", path, 512, parallel, 1)


@asynccontextmanager
async def running(path: Path, home: Path, parallel: int = 2) -> AsyncIterator[Running]:
    engine = await LlamaCpp(os.environ, home).start(spec(path, parallel))
    try:
        yield engine
    finally:
        await engine.stop()


async def test_every_surface_on_one_engine(model: Path, tmp_path: Path) -> None:
    chat = {"messages": MESSAGES, "max_tokens": 6}
    async with running(model, tmp_path) as engine:
        answer = (await acall(engine, "/v1/chat/completions", chat)).json
        assert answer["usage"]["completion_tokens"] == 6
        assert answer["model"] == "tiny"
        assert answer["choices"][0]["message"]["content"].isascii()
        stream = await acall(
            engine, "/v1/chat/completions", {**chat, "stream": True, "stream_options": {"include_usage": True}}
        )
        assert stream.body.endswith(b"data: [DONE]\n\n")
        assert stream.events[-1]["usage"]["completion_tokens"] == 6
        completion = (await acall(engine, "/v1/completions", {"prompt": "abc", "max_tokens": 4})).json
        assert completion["usage"]["completion_tokens"] == 4
        response = (await acall(engine, "/v1/responses", {"input": "hi", "max_output_tokens": 4})).json
        assert response["output"][0]["content"][0]["type"] == "output_text"
        message = (await acall(engine, "/v1/messages", chat)).json
        assert message["stop_reason"] == "max_tokens"
        count = (await acall(engine, "/v1/messages/count_tokens", {"messages": MESSAGES})).json
        assert count["input_tokens"] > 0


@pytest.mark.parametrize("value", ["abc", ["abc", "d"], [5, 6], [[5, 6], [7]]])
async def test_embeddings_beside_chat(model: Path, tmp_path: Path, value: Any) -> None:
    async with running(model, tmp_path) as engine:
        data = (await acall(engine, "/v1/embeddings", {"input": value})).json["data"]
        assert len(data) == (1 if value in ("abc", [5, 6]) else 2)
        assert len(data[0]["embedding"]) == 32


async def test_a_chat_answers_the_same_with_embeddings_in_between(model: Path, tmp_path: Path) -> None:
    chat = {"messages": MESSAGES, "max_tokens": 16, "temperature": 0}

    async def text(engine: Running) -> str:
        return str((await acall(engine, "/v1/chat/completions", chat)).json["choices"][0]["message"]["content"])

    async with running(model, tmp_path) as engine:
        alone = await text(engine)
        mixed = await asyncio.gather(
            *(text(engine) for _ in range(6)),
            *(acall(engine, "/v1/embeddings", {"input": "hello " * n}) for n in range(1, 7)),
        )
        assert set(mixed[:6]) == {alone}


async def test_a_schema_is_obeyed(model: Path, tmp_path: Path) -> None:
    body = {
        "messages": MESSAGES,
        "max_tokens": 100,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    }
    async with running(model, tmp_path) as engine:
        for _ in range(5):
            choice = (await acall(engine, "/v1/chat/completions", body)).json["choices"][0]
            assert choice["finish_reason"] == "stop"
            assert set(orjson.loads(choice["message"]["content"])) == {"ok", "kind"}


async def test_tools_and_their_results_are_accepted(model: Path, tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"ok":true,"kind":"a"}'}}
    history = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "seen"},
    ]
    async with running(model, tmp_path) as engine:
        for choice in ("auto", "required", "none"):
            body = {"messages": history, "max_tokens": 4, "tools": [TOOL], "tool_choice": choice}
            answer = await acall(engine, "/v1/chat/completions", body)
            assert answer.status == 200, answer.body


async def test_each_sequence_has_the_whole_context(model: Path, tmp_path: Path) -> None:
    """llama.cpp divides its context among the sequences; ours is per sequence."""
    async with running(model, tmp_path, parallel=4) as engine:
        body = {"prompt": "!" * 400, "max_tokens": 50}
        answers = await asyncio.gather(*(acall(engine, "/v1/completions", body) for _ in range(4)))
        assert [answer.json["usage"]["completion_tokens"] for answer in answers] == [50] * 4
        over = await acall(engine, "/v1/completions", {"prompt": "!" * 600, "max_tokens": 1})
        assert over.status == 400


@pytest.mark.parametrize("depth", [100, 3_000, 100_000])
async def test_deep_json_does_not_end_it(model: Path, tmp_path: Path, depth: int) -> None:
    """C6, the second line of defence: the gateway refuses such bodies before."""
    async with running(model, tmp_path) as engine:
        body = b'{"messages":' + b"[" * depth + b"]" * depth + b"}"
        assert (await acall(engine, "/v1/chat/completions", body)).status == 400
        assert (await acall(engine, "/health", None)).status == 200


async def test_idle_connections_do_not_hold_up_others(model: Path, tmp_path: Path) -> None:
    """The stall this guards against lasts 5 s or a multiple of it: the server's limit for idle connections."""
    body = orjson.dumps({"messages": MESSAGES, "max_tokens": 2})
    slowest = 0.0

    async def client(upstream: Upstream) -> None:
        nonlocal slowest
        for _ in range(3):
            began = time.monotonic()
            async with await upstream.send("POST", "/v1/chat/completions", body) as response:
                await response.body(1 << 20)
            slowest = max(slowest, time.monotonic() - began)

    async with running(model, tmp_path) as engine:
        upstream = Upstream(engine.host, engine.port, headers=(("authorization", f"Bearer {engine.key}"),))
        await asyncio.gather(*(client(upstream) for _ in range(48)))
        await upstream.close()
    assert slowest < 4.5


async def test_only_its_key_opens_it(model: Path, tmp_path: Path) -> None:
    async with running(model, tmp_path) as engine:
        body = {"messages": MESSAGES, "max_tokens": 1}
        assert (await acall(engine, "/v1/chat/completions", body, key="wrong")).status == 401
        for closed in ("/slots", "/metrics", "/", "/tools"):
            assert (await acall(engine, closed, None)).status in (403, 404, 501), closed


async def test_its_key_is_nowhere_to_be_read(model: Path, tmp_path: Path) -> None:
    secret = {**os.environ, "OPENAI_API_KEY": "canary-1", "LLM_BRIDGE_API_KEY": "canary-2"}
    engine = await LlamaCpp(secret, tmp_path).start(spec(model))
    try:
        process = psutil.Process(engine.pid)
        seen = f"{process.cmdline()} {process.environ()} {records(tmp_path)} {engine!r}"
        assert engine.key not in seen
        assert "canary" not in seen
        assert [c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN] == ["127.0.0.1"]
        assert os.getsid(engine.pid) == engine.pid
    finally:
        await engine.stop()
    assert records(tmp_path) == ""


def records(home: Path) -> str:
    return "".join(path.read_text() for path in (home / "run").iterdir())


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (tiny_gguf.write_truncated, "corrupted or incomplete"),
        (tiny_gguf.write_corrupt, "offset"),
        (tiny_gguf.write_not_gguf, "invalid magic characters"),
        (lambda path: path, "No such file or directory"),
    ],
)
async def test_a_bad_file_says_why_in_both_languages(tmp_path: Path, write: Any, said: str) -> None:
    path = write(tmp_path / "bad.gguf")
    with pytest.raises(EngineFailed) as caught:
        await LlamaCpp(os.environ, tmp_path).start(spec(path))
    assert said in caught.value.text("en")
    assert said in caught.value.text("ja")
    assert caught.value.text("ja").startswith("ローカルエンジンを利用できません: 終了しました")


async def test_a_processor_that_cannot_run_it_is_named_before_the_spawn(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "missing_features", lambda *_: ("avx2",))
    with pytest.raises(EngineFailed, match="AVX2"):
        await LlamaCpp(os.environ, tmp_path).start(spec(model))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
async def test_a_crash_ends_wait_with_its_name(model: Path, tmp_path: Path, number: signal.Signals) -> None:
    async with running(model, tmp_path) as engine:
        os.kill(engine.pid, number)
        assert number.name in (await engine.wait())[1]


async def test_ctrl_c_does_not_reach_it(model: Path, tmp_path: Path) -> None:
    async with running(model, tmp_path) as engine:
        os.kill(engine.pid, signal.SIGINT)
        body = {"messages": MESSAGES, "max_tokens": 1}
        assert (await acall(engine, "/v1/chat/completions", body)).status == 200


async def test_a_cancelled_start_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = asyncio.Event()
    pids = []
    original = Child.ready

    async def ready(self: Child, limit: float) -> dict[str, Any]:
        pids.append(self.pid)
        started.set()
        return await original(self, limit)

    monkeypatch.setattr(Child, "ready", ready)
    start = asyncio.create_task(LlamaCpp(os.environ, tmp_path).start(spec(model)))
    await started.wait()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert identify(pids[0]) is None


async def test_ready_time(model: Path, tmp_path: Path) -> None:
    """No limit is asserted: the machine is shared. Goal 0.35 s."""
    times = []
    for _ in range(5):
        began = time.monotonic()
        async with running(model, tmp_path):
            times.append(time.monotonic() - began)
    print(f"engine ready: median {statistics.median(times):.3f} s of {len(times)}, best {min(times):.3f} s")


def test_the_useful_line() -> None:
    log = (
        "0.00.005.829 E llama_model_load: error loading model: tensor 'x' is not within the file bounds",
        "0.00.006.287 E srv    load_model: failed to load model, 'trunc.gguf'",
        "Failed to init server, please check the input params.",
    )
    assert useful_line(log, loading=True) == "error loading model: tensor 'x' is not within the file bounds"
    assert useful_line(log[1:], loading=True) == "failed to load model, 'trunc.gguf'"
    assert useful_line(log[:1], loading=False) == ""
    assert useful_line(("/ggml.c:1: GGML_ASSERT(a == b) failed", *log), loading=False).endswith("(a == b) failed")
    assert useful_line((), loading=True) == ""
