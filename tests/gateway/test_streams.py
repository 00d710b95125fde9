"""D1, D3, D4: a stream ends exactly once, and a client that leaves ends the work."""

import asyncio
import random
import time

import orjson
import pytest

from llm_bridge.errors import UpstreamFailed
from llm_bridge.wire.sse import ANTHROPIC, MAX_EVENT, OPENAI, RESPONSES, Dialect, Relay
from tests.support import upstream as up
from tests.support.stack import CHAT, STREAM, ask, gateway, post, run

RECORDED = b"".join(
    (up.delta("こん"), up.delta("にちは"), b'data: {"choices":[],"usage":{"total_tokens":9}}\n\n', up.DONE)
)
CRLF = RECORDED.replace(b"\n", b"\r\n")


def terminal_events(body: bytes) -> list[str]:
    """The ends found in a client's stream, in order. Fails on an event that is not whole."""
    assert body.endswith(b"\n\n"), body[-40:]
    found = []
    for block in body.replace(b"\r\n", b"\n").split(b"\n\n")[:-1]:
        data = block.removeprefix(b"data: ")
        if data == b"[DONE]":
            found.append("done")
        elif "error" in orjson.loads(data):
            found.append("error")
    return found


def test_an_upstream_cut_at_every_byte_never_looks_finished() -> None:
    """D3: the whole HTTP answer, framing included, cut after each of its bytes."""
    answer = (
        up.EVENTS_HEAD + b"".join(up.chunk(RECORDED[i : i + 61]) for i in range(0, len(RECORDED), 61)) + b"0\r\n\r\n"
    )
    complete = answer.index(up.chunk(RECORDED)[-20:-2]) if False else len(answer) - len(b"\r\n0\r\n\r\n")
    lies = 0
    at = 0

    async def script(request: up.Request, writer: asyncio.StreamWriter) -> None:
        await up.cut(answer[:at])(request, writer)

    async def work() -> None:
        nonlocal at, lies
        async with gateway(script) as stack:
            for at in range(len(answer)):
                got = await ask(stack.port, post(STREAM))
                assert got.whole
                if got.status != 200:
                    assert got.status == 502
                    continue
                ends = terminal_events(got.body)
                assert len(ends) == 1
                lies += ends == ["done"] and at < complete
        print(f"D3: {len(answer)} cuts, truncations reported as success {lies}")
        assert lies == 0

    run(work())


@pytest.mark.parametrize("recorded", [RECORDED, CRLF], ids=["LF", "CRLF"])
def test_the_relay_does_not_see_packet_boundaries(recorded: bytes) -> None:
    """D4: cut in two at all offsets, in three at many, and byte by byte: the same bytes come out."""
    pieces = [[recorded[:i], recorded[i:]] for i in range(len(recorded))]
    rng = random.Random(4)
    for _ in range(500):
        i, j = sorted(rng.sample(range(len(recorded)), 2))
        pieces.append([recorded[:i], recorded[i:j], recorded[j:]])
    pieces.append([recorded[i : i + 1] for i in range(len(recorded))])
    for split in pieces:
        relay = Relay(OPENAI)
        out = [relay.feed(piece) for piece in split]
        assert b"".join(out) == recorded
        assert all(not piece or piece.endswith((b"\n\n", b"\r\n\r\n")) for piece in out)
        assert relay.ended
    print(f"D4: {len(pieces)} slicings, byte-equal 100 %")


def test_what_follows_the_end_is_dropped_and_an_endless_event_is_refused() -> None:
    relay = Relay(OPENAI)
    assert relay.feed(up.DONE + up.delta("late")) == up.DONE
    assert relay.feed(up.delta("later")) == b""
    with pytest.raises(UpstreamFailed):
        Relay(OPENAI).feed(b"data: " + b"x" * (MAX_EVENT + 1))


@pytest.mark.parametrize(
    ("dialect", "event"),
    [
        (OPENAI, b'data: {"error":{"message":"out of memory"}}\n\n'),
        (RESPONSES, b'event: response.completed\ndata: {"type":"response.completed"}\n\n'),
        (RESPONSES, b'event: error\ndata: {"type":"error"}\n\n'),
        (ANTHROPIC, b'event: message_stop\ndata: {"type":"message_stop"}\n\n'),
        (ANTHROPIC, b'event: error\ndata: {"type":"error"}\n\n'),
    ],
)
def test_each_surface_knows_its_ends(dialect: Dialect, event: bytes) -> None:
    relay = Relay(dialect)
    before = up.delta("it says data: [DONE] and error: and event: message_stop")
    assert relay.feed(before) == before
    assert not relay.ended
    assert relay.feed(event) == event
    assert relay.ended


@pytest.mark.parametrize(
    "before", [b"\n", b": ping\n", b"id: 1\n", b"retry: 5\n", b"event: message\n", b": a\r\nid: 1\r\n"]
)
def test_the_end_is_found_behind_other_lines_of_its_event(before: bytes) -> None:
    relay = Relay(OPENAI)
    stream = up.delta("a") + before + up.DONE
    assert relay.feed(stream) == stream
    assert relay.ended


def test_an_error_event_of_the_upstream_is_the_only_end() -> None:
    async def work() -> None:
        failing = b'data: {"error":{"message":"compute error"}}\n\n'
        async with gateway(up.events(up.delta("a"), failing, up.DONE)) as stack:
            got = await ask(stack.port, post(STREAM))
            assert terminal_events(got.body) == ["error"]

    run(work())


def test_a_stall_in_the_middle_ends_with_an_error_event() -> None:
    async def work() -> None:
        async with gateway(up.then_silence(up.EVENTS_HEAD + up.chunk(up.delta("a"))), patience=1.0) as stack:
            got = await ask(stack.port, post(STREAM, extra="accept-language: en\r\n"))
            assert terminal_events(got.body) == ["error"]
            error = orjson.loads(got.body.split(b"\n\n")[-2].removeprefix(b"data: "))["error"]
            assert error["code"] == "upstream_timeout"
            assert "between chunks" in error["message"]

    run(work())


def test_garbage_in_the_framing_ends_with_an_error_event() -> None:
    async def work() -> None:
        async with gateway(up.cut(up.EVENTS_HEAD + up.chunk(up.delta("a")) + b"zzz\r\n")) as stack:
            assert terminal_events((await ask(stack.port, post(STREAM))).body) == ["error"]

    run(work())


_PHASES = {
    "first byte": up.then_silence(),
    "after the head": up.then_silence(up.EVENTS_HEAD),
    "streaming": up.then_silence(up.EVENTS_HEAD + up.chunk(up.delta("a"))),
    "not streaming": up.then_silence(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
    ),
}


def test_a_client_that_leaves_ends_the_work_in_every_phase() -> None:
    """D1: by FIN and by reset, at random moments."""
    rng = random.Random(1)
    waits: list[float] = []

    async def leave(phase: str, *, reset: bool) -> None:
        async with gateway(_PHASES[phase]) as stack:
            for _ in range(25):
                stack.upstream.left.clear()
                asked = len(stack.upstream.requests)
                _, writer = await asyncio.open_connection("127.0.0.1", stack.port)
                writer.write(post(CHAT if phase == "not streaming" else STREAM))
                await stack.upstream.asked(asked + 1)
                await asyncio.sleep(rng.random() * 0.01)
                began = time.monotonic()
                writer.transport.abort() if reset else writer.close()
                await asyncio.wait_for(stack.upstream.left.wait(), 5)
                waits.append(time.monotonic() - began)
            assert not stack.server.active

    async def work() -> None:
        for phase in _PHASES:
            await leave(phase, reset=False)
            await leave(phase, reset=True)

    run(work())
    waits.sort()
    p99 = waits[int(len(waits) * 0.99)]
    print(f"D1: {len(waits)} disconnects, p99 {p99 * 1000:.1f} ms, leaked 0")
    assert p99 <= 1.0
