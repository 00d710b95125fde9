"""What a connection must survive: endless trailers, fragments, garbage behind a request, slow and vanished clients."""

import asyncio
import time

from llm_bridge.wire.connection import Limits
from tests.support import upstream as up
from tests.support.memory import resident
from tests.support.stack import CHAT, STREAM, ask, gateway, post, read_answer
from tests.wire.raw import exchange, listeners, status

QUICK = Limits(head=1.0, idle=1.5, body=1.5, stall=1.0, linger=0.5)


async def endless(request: up.Request, writer: asyncio.StreamWriter) -> None:
    writer.write(up.EVENTS_HEAD)
    while True:
        writer.write(up.chunk(up.delta("x" * 30_000)))
        await writer.drain()


async def test_a_trailer_without_end_is_refused_early() -> None:
    head = b"GET /health HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: "
    async with listeners() as servers:
        for server in servers.values():
            began = time.process_time()
            assert status(await exchange(server.port, head + b"a" * 3_000_000)) == 431
            assert time.process_time() - began < 1.0


async def test_chunk_extensions_without_end_are_refused() -> None:
    head = post(CHAT).partition(b"content-length")[0] + b"transfer-encoding: chunked\r\n\r\n1;"
    async with listeners() as servers:
        for server in servers.values():
            assert status(await exchange(server.port, head + b"a" * 1_000_000)) in (400, 431)


async def test_a_body_in_tiny_pieces_costs_little_or_is_refused() -> None:
    data = b"2\r\n{ \r\n" + b"2\r\n  \r\n" * 500_000
    async with listeners(max_body=8 << 20) as servers:
        before = resident()
        head = post(CHAT).partition(b"content-length")[0] + b"transfer-encoding: chunked\r\n\r\n"
        assert status(await exchange(servers["gateway"].port, head + data)) == 431
        assert resident(settle=False) - before < 24 << 20


async def test_garbage_behind_a_request_does_not_switch_back_pressure_off() -> None:
    async with gateway(endless) as stack:
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port, limit=1024)
        before = resident()
        writer.write(post(STREAM) + b"\x00garbage\r\n\r\n")
        await stack.upstream.asked(1)
        await asyncio.sleep(1.0)
        assert resident(settle=False) - before < 16 << 20
        writer.transport.abort()
        await asyncio.wait_for(stack.upstream.left.wait(), 5)
        del reader


async def test_a_client_that_leaves_behind_a_backlog_is_noticed() -> None:
    async with gateway(up.then_silence()) as stack:
        _, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        writer.write(post(CHAT))
        await stack.upstream.asked(1)
        writer.write(b"x" * 400_000)
        writer.close()
        await asyncio.wait_for(stack.upstream.left.wait(), 2)


async def test_a_slow_reader_that_keeps_reading_gets_everything() -> None:
    big = b'{"x":"' + b"y" * 20_000_000 + b'"}'
    async with gateway(up.whole(big), QUICK) as stack:
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port, limit=1 << 16)
        writer.write(post(CHAT))
        received = 0
        while received < len(big):
            received += len(await reader.read(1 << 20))
            await asyncio.sleep(0.06)
        assert stack.upstream.connections == 1
        writer.close()


async def test_a_large_request_with_the_next_ones_head_behind_it_is_served() -> None:
    large = {**CHAT, "user": "u" * 80_000}
    follow = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with gateway(up.whole(up.ANSWER)) as stack:
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        writer.write(post(large) + follow[:20])
        assert (await read_answer(reader)).status == 200
        writer.write(follow[20:])
        assert (await read_answer(reader)).json["object"] == "list"
        writer.close()


async def test_a_stop_waits_for_requests_that_are_still_arriving_and_answers_that_are_still_leaving() -> None:
    big = b'{"x":"' + b"y" * 30_000_000 + b'"}'
    async with gateway(up.whole(big)) as stack:
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        request = post(CHAT)
        writer.write(request[:-5])
        await asyncio.sleep(0.1)
        drained = asyncio.create_task(stack.server.drain(10))
        await asyncio.sleep(0.2)
        assert not drained.done()
        writer.write(request[-5:])
        answer = await read_answer(reader)
        assert answer.status == 200
        assert answer.whole
        assert len(answer.body) == len(big)
        assert await drained == 0
        writer.close()


async def test_a_stop_tells_a_request_that_does_not_arrive_in_time() -> None:
    async with gateway(up.whole(up.ANSWER)) as stack:
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        writer.write(post(CHAT)[:-5])
        await asyncio.sleep(0.1)
        drained = asyncio.create_task(stack.server.drain(0.2))
        assert (await read_answer(reader)).status == 503
        await drained
        writer.close()


async def test_an_answer_is_not_mixed_up_with_what_follows_it() -> None:
    async def twice(request: up.Request, writer: asyncio.StreamWriter) -> None:
        answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
        writer.write(answer + answer.replace(b"{}", b"[]"))
        await writer.drain()

    async with gateway(twice) as stack:
        for _ in range(3):
            assert (await ask(stack.port, post(CHAT))).body == b"{}"
        assert stack.upstream.connections == 3


async def test_a_body_without_length_that_is_reset_is_not_complete() -> None:
    async def reset(request: up.Request, writer: asyncio.StreamWriter) -> None:
        writer.write(up.JSON_HEAD + b'\r\n{"half":')
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.get_extra_info("socket").setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SO_LINGER 0
        writer.transport.abort()

    async with gateway(reset) as stack:
        assert (await ask(stack.port, post(CHAT))).status == 502


async def test_a_request_an_upstream_has_worked_on_is_not_sent_again() -> None:
    calls = 0

    async def dies_at_work(request: up.Request, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            await asyncio.sleep(1.2)
            writer.transport.abort()
            return
        await up.whole(up.ANSWER)(request, writer)

    async with gateway(dies_at_work) as stack:
        answer = await ask(stack.port, post(CHAT), post(CHAT))
        assert (answer.status, calls) == (502, 2)


async def test_comments_after_the_end_hold_nobody_up() -> None:
    async def chatty(request: up.Request, writer: asyncio.StreamWriter) -> None:
        writer.write(up.EVENTS_HEAD + up.chunk(up.delta("a") + up.DONE))
        while True:
            writer.write(up.chunk(b": hi\n\n"))
            await writer.drain()
            await asyncio.sleep(0.2)

    async with gateway(chatty) as stack:
        began = time.monotonic()
        assert (await ask(stack.port, post(STREAM), post(STREAM))).whole
        assert time.monotonic() - began < 3


async def test_a_slow_client_is_not_the_upstreams_fault() -> None:
    piece = up.delta("x" * 60_000)

    async with gateway(up.events(*[piece] * 300, up.DONE), patience=1.0) as stack:
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port, limit=4096)
        writer.write(post(STREAM))
        await asyncio.sleep(2.5)
        answer = await read_answer(reader)
        assert answer.body.endswith(up.DONE)
        writer.close()


async def test_a_call_that_does_not_stream_ends_with_its_timeout_however_it_drips() -> None:
    async def drip(request: up.Request, writer: asyncio.StreamWriter) -> None:
        writer.write(up.JSON_HEAD + b"content-length: 1000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.1)

    async with gateway(drip, patience=1.0) as stack:
        began = time.monotonic()
        assert (await ask(stack.port, post(CHAT))).status == 504
        assert time.monotonic() - began < 3
