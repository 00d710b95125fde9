"""A call on its way to an upstream and back: what arrives there, what comes back, and how it ends."""

import asyncio
from dataclasses import replace

import pytest

from llm_bridge.config.schema import Config
from tests.support import upstream as up
from tests.support.stack import CHAT, STREAM, ask, gateway, post, read_answer, run


def test_a_call_arrives_rewritten_with_the_upstreams_own_credentials() -> None:
    async def work() -> None:
        async with gateway(up.whole(up.ANSWER)) as stack:
            answer = await ask(
                stack.port, post({**CHAT, "temperature": 0.7}, extra="authorization: Bearer client-key\r\n")
            )
            assert answer.status == 200
            assert answer.body == up.ANSWER
            assert answer.headers["x-llm-bridge-model"] == "gpt"
            assert answer.headers["x-llm-bridge-lane"] == "direct"
            assert int(answer.headers["x-llm-bridge-overhead-us"]) >= 0
            request = stack.upstream.requests[0]
            assert request.head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
            assert b"authorization: Bearer sk-canary-provider-key\r\n" in request.head
            assert b"client-key" not in request.head
            assert request.document == {**CHAT, "model": "gpt-real", "temperature": 0.7}

    run(work())


@pytest.mark.parametrize("model", ["default", "", None])
def test_no_model_means_the_first(model: str | None) -> None:
    async def work() -> None:
        async with gateway(up.whole(up.ANSWER)) as stack:
            assert (await ask(stack.port, post({**CHAT, "model": model}))).status == 200
            assert stack.upstream.requests[0].document["model"] == "gpt-real"

    run(work())


def test_an_unknown_model_names_the_configured_ones() -> None:
    async def work() -> None:
        async with gateway(up.whole(up.ANSWER)) as stack:
            answer = await ask(stack.port, post({**CHAT, "model": "nope"}, extra="accept-language: en\r\n"))
            assert answer.status == 404
            assert answer.error["code"] == "model_not_found"
            assert answer.error["message"] == "Model nope is not configured. Configured models: gpt"
            assert stack.upstream.requests == []

    run(work())


def test_upstream_headers_stay_there() -> None:
    """C2: what the client gets are our headers, whatever an upstream sends."""
    hostile = "set-cookie: a=b\r\nlocation: http://evil\r\naccess-control-allow-origin: *\r\nx-evil: 1\r\n"

    async def work() -> None:
        async with gateway(up.whole(up.ANSWER, extra=hostile)) as stack:
            answer = await ask(stack.port, post(CHAT))
            listed = {
                "content-type",
                "content-length",
                "x-request-id",
                "x-content-type-options",
                "x-llm-bridge-model",
                "x-llm-bridge-lane",
                "x-llm-bridge-overhead-us",
            }
            foreign = set(answer.headers) - listed
            print(f"C2: non-listed headers at the client {len(foreign)}")
            assert foreign == set()

    run(work())


def test_a_stream_passes_whole_and_ends_once() -> None:
    pieces = [up.delta("春"), up.delta("夏") + up.delta("秋"), up.delta("冬"), up.DONE, b"data: after the end\n\n"]

    async def work() -> None:
        async with gateway(up.events(*pieces)) as stack:
            answer = await ask(stack.port, post(STREAM))
            assert answer.headers["content-type"] == "text/event-stream"
            assert answer.whole
            assert answer.body == b"".join(pieces[:-1])

    run(work())


def test_an_upstreams_error_answer_is_passed_on() -> None:
    body = b'{"error":{"message":"slow down","type":"rate_limit","param":null,"code":"rate_limited"}}'

    async def work() -> None:
        async with gateway(up.whole(body, "429 Too Many Requests")) as stack:
            answer = await ask(stack.port, post(CHAT))
            assert (answer.status, answer.body) == (429, body)

    run(work())


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (up.cut(b""), 502, "upstream_failed"),
        (up.cut(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"), 502, "upstream_failed"),
        (up.cut(b"SMTP ready\r\n"), 502, "upstream_failed"),
        (up.whole(b"<html>", content_type="text/html"), 502, "upstream_failed"),
        (up.then_silence(), 504, "upstream_timeout"),
        (
            up.then_silence(up.JSON_HEAD + b"content-length: 9\r\n\r\n"),
            504,
            "upstream_timeout",
        ),
        (up.cut(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 200_000), 502, "upstream_failed"),
    ],
    ids=["no answer", "half a body", "not HTTP", "not JSON", "silent", "silent after the head", "endless head"],
)
def test_faults_before_anything_was_said(script: up.Script, status: int, code: str) -> None:
    async def work() -> None:
        async with gateway(script, patience=1.0) as stack:
            answer = await ask(stack.port, post(CHAT))
            assert (answer.status, answer.error["code"]) == (status, code)
            assert answer.whole

    run(work())


def test_a_refused_connection_is_one_clear_error() -> None:
    async def work() -> None:
        async with gateway(up.whole(up.ANSWER)) as stack:
            dead = stack.upstream.port
            entry = stack.pool.find("gpt")
        async with gateway(up.whole(up.ANSWER)) as stack:
            stack.pool.configure(Config((replace(entry, api_base=f"http://127.0.0.1:{dead}/v1"),), "r2", {}))
            answer = await ask(stack.port, post(CHAT))
            assert (answer.status, answer.error["code"]) == (502, "upstream_failed")
            assert str(dead) in answer.error["message"]

    run(work())


def test_a_stale_pooled_connection_is_replaced() -> None:
    """The keep-alive race: the upstream closed an idle connection that was about to be used."""
    calls = 0

    async def once_per_connection(request: up.Request, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # the second request on the first connection: gone without a byte
            writer.transport.abort()
            return
        await up.whole(up.ANSWER)(request, writer)

    async def work() -> None:
        async with gateway(once_per_connection) as stack:
            answer = await ask(stack.port, post(CHAT), post(CHAT))
            assert answer.status == 200
            assert calls == 3
            assert stack.upstream.connections == 2

    run(work())


def test_connections_are_reused() -> None:
    async def work() -> None:
        async with gateway(up.whole(up.ANSWER)) as stack:
            await ask(stack.port, *[post(CHAT)] * 20)
            assert len(stack.upstream.requests) == 20
            assert stack.upstream.connections == 1

    run(work())


def test_a_client_that_reads_slowly_slows_the_upstream_down() -> None:
    """Backpressure through and through: what the client does not take stays at the upstream."""
    sent = 0

    async def endless(request: up.Request, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(up.EVENTS_HEAD)
        piece = up.chunk(up.delta("x" * 16_000))
        while True:
            writer.write(piece)
            sent += len(piece)
            await writer.drain()

    async def work() -> None:
        async with gateway(endless) as stack:
            reader, writer = await asyncio.open_connection("127.0.0.1", stack.port, limit=1 << 12)
            writer.write(post(STREAM))
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.5)
            print(f"C5: sent by the upstream before it was held {sent / 1e6:.1f} MB")
            assert 0 < sent < 16e6  # kernel buffers of three sockets, and ours
            writer.transport.abort()
            await asyncio.wait_for(stack.upstream.left.wait(), 5)
            del reader

    run(work())


def test_pipelined_calls_are_answered_in_order() -> None:
    async def work() -> None:
        async with gateway(up.whole(up.ANSWER)) as stack:
            reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
            models = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
            writer.write((post(CHAT) + models) * 10)
            for _ in range(10):
                assert (await read_answer(reader)).body == up.ANSWER
                assert (await read_answer(reader)).json["object"] == "list"
            writer.close()

    run(work())
