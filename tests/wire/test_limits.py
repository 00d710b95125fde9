"""C3, C4, C5: sizes and deadlines, on both listeners. The deadlines are shortened here."""

import asyncio
import resource
import time

import pytest

from llm_bridge.wire.connection import Limits
from tests.support import upstream as up
from tests.support.memory import resident
from tests.support.stack import CHAT, STREAM, ask, gateway, post, read_answer, run
from tests.wire.raw import exchange, listeners, status

QUICK = Limits(head=1.0, idle=1.5, body=1.5, rate=1024.0, stall=1.5, linger=0.5)
SWEEP = 0.5  # seconds between two looks at the deadlines
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
GET = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (POST + b"content-length: 1000001\r\n\r\n", 413),
        (POST + b"transfer-encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 20, 413),
        (GET + b"x: " + b"a" * 66_000 + b"\r\n\r\n", 431),
        (GET + b"x: " + b"a" * 500_000, 431),
        (GET + b"".join(b"x%d: a\r\n" % i for i in range(101)) + b"\r\n", 431),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", 431),
        (POST + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}", 415),
        (POST.replace(b"application/json", b"text/plain") + b"content-length: 2\r\n\r\n{}", 415),
        (POST.replace(b"content-type: application/json\r\n", b"") + b"content-length: 2\r\n\r\n{}", 415),
    ],
    ids=["length", "chunks", "field", "endless field", "fields", "target", "compressed", "text/plain", "no type"],
)
def test_what_is_too_large_or_unreadable_is_refused(request_: bytes, expected: int) -> None:
    async def work() -> None:
        async with listeners(max_body=1_000_000) as servers:
            for server in servers.values():
                assert status(await exchange(server.port, request_)) == expected

    run(work())


def test_an_endless_body_and_an_endless_head_cost_no_memory() -> None:
    """C3: hundreds of megabytes pushed as fast as they go; what is kept stays below the cap."""
    cap = 8 << 20

    async def push(port: int, head: bytes, piece: bytes) -> int:
        """Send until the server has closed; returns bytes sent."""
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = 0
        try:
            writer.write(head)
            while sent < 200 << 20 and not writer.transport.is_closing():
                writer.write(piece)
                sent += len(piece)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
        return sent

    async def work() -> None:
        async with listeners(max_body=cap) as servers:
            await ask(servers["gateway"].port, post(CHAT))
            before = resident()
            peak = before
            chunk = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
            for server in servers.values():
                pushed = await push(server.port, POST + b"transfer-encoding: chunked\r\n\r\n", chunk)
                assert pushed < 200 << 20
                peak = max(peak, resident(settle=False))
                await push(server.port, GET + b"x: ", b"a" * (1 << 20))
                peak = max(peak, resident(settle=False))
        growth = peak - before
        print(f"C3: RSS growth {growth / 2**20:.1f} MiB (cap {cap >> 20} + 16)")
        assert growth <= cap + (16 << 20)

    run(work())


async def _reaped(port: int, data: bytes, drip: bytes = b"") -> float:
    """Seconds until the server ended a connection on which `data` came and then `drip` every 0.2 s."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.monotonic()
    try:
        writer.write(data)
        while time.monotonic() - began < 20:
            try:
                async with asyncio.timeout(0.2):
                    if not await reader.read(4096):
                        break
            except TimeoutError:
                writer.write(drip)
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return time.monotonic() - began


def test_slow_clients_are_ended_in_time_and_others_do_not_notice() -> None:
    """C4: thousands of connections that send nothing, or a byte now and then, in every phase."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    kinds = {
        "nothing at all": (b"", b"", QUICK.head),
        "half a head": (b"GET /health HT", b"", QUICK.head),
        "a head for ever": (GET, b"x: y\r\n", QUICK.head),
        "half a body": (POST + b"content-length: 1000\r\n\r\n{", b"", QUICK.body),
        "a body for ever": (POST + b"content-length: 100000\r\n\r\n{", b" ", QUICK.body),
        "idle": (GET + b"\r\n", b"", QUICK.idle),
    }
    each = 170
    late, errors, good = 0, 0, 0

    async def good_client(port: int, stop: asyncio.Event) -> None:
        nonlocal errors, good
        while not stop.is_set():
            answer = await ask(port, post(CHAT))
            errors += answer.status != 200
            good += 1
            await asyncio.sleep(0.02)

    async def work() -> None:
        nonlocal late
        async with listeners(QUICK) as servers:
            stop = asyncio.Event()
            watcher = asyncio.create_task(good_client(servers["gateway"].port, stop))
            for server in servers.values():
                jobs = [
                    (limit, _reaped(server.port, data, drip))
                    for data, drip, limit in kinds.values()
                    for _ in range(each)
                ]
                took = await asyncio.gather(*(job for _, job in jobs))
                allowed = QUICK.linger + 2 * SWEEP + 2.0
                late += sum(seconds > limit + allowed for (limit, _), seconds in zip(jobs, took, strict=True))
            stop.set()
            await watcher

    try:
        run(work())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(f"C4: {2 * each * len(kinds)} slow connections, late {late}; good client: {good} calls, errors {errors}")
    assert late == 0
    assert errors == 0
    assert good > 20


def test_a_slow_body_that_keeps_the_rate_is_served() -> None:
    body = post(CHAT).partition(b"\r\n\r\n")[2]
    padded = body[:-1] + b" " * 6000 + b"}"

    async def work() -> None:
        async with listeners(QUICK) as servers:
            reader, writer = await asyncio.open_connection("127.0.0.1", servers["gateway"].port)
            writer.write(POST + b"content-length: %d\r\n\r\n" % len(padded))
            for at in range(0, len(padded), 600):  # about 3 kB/s for longer than the flat limit
                writer.write(padded[at : at + 600])
                await asyncio.sleep(0.2)
            assert (await read_answer(reader)).status == 200
            writer.close()

    run(work())


def test_clients_that_never_read_are_let_go() -> None:
    """C5: the stream is stopped, the upstream's work is cancelled, little is kept."""
    stuck = 20

    async def endless(request: up.Request, writer: asyncio.StreamWriter) -> None:
        writer.write(up.EVENTS_HEAD)
        while True:
            writer.write(up.chunk(up.delta("x" * 30_000)))
            await writer.drain()

    async def work() -> None:
        async with gateway(endless, QUICK) as stack:
            before = resident()
            clients = [await asyncio.open_connection("127.0.0.1", stack.port, limit=1024) for _ in range(stuck)]
            for _, writer in clients:
                writer.write(post(STREAM))
            began = time.monotonic()
            await stack.upstream.asked(stuck)
            most = 0
            while stack.server.active and time.monotonic() - began < 15:
                await asyncio.sleep(0.1)
                most = max(most, resident(settle=False) - before)
            freed = stuck - len(stack.server.active)
            per_client = most / stuck / 2**20
            print(f"C5: {stuck} stuck readers, freed in time {freed}, RSS per client {per_client:.2f} MiB")
            for _, writer in clients:
                writer.transport.abort()
            assert freed == stuck
            assert per_client <= 4.0

    run(work())


def test_a_large_answer_to_a_slow_reader_with_close_arrives_whole() -> None:
    big = b'{"x":"' + b"y" * 6_000_000 + b'"}'

    async def work() -> None:
        async with gateway(up.whole(big), QUICK) as stack:
            reader, writer = await asyncio.open_connection("127.0.0.1", stack.port, limit=4096)
            writer.write(post(CHAT, extra="connection: close\r\n"))
            received = b""
            while piece := await reader.read(300_000):
                received += piece
                await asyncio.sleep(0.03)
            assert received.endswith(big)
            writer.close()

    run(work())


def test_expect_continue_is_answered_before_the_body() -> None:
    async def work() -> None:
        async with listeners() as servers:
            reader, writer = await asyncio.open_connection("127.0.0.1", servers["gateway"].port)
            request = post(CHAT, extra="expect: 100-continue\r\n")
            head, _, body = request.partition(b"\r\n\r\n")
            writer.write(head + b"\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            assert (await read_answer(reader)).status == 200
            writer.close()

    run(work())
