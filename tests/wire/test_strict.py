"""C1, A3: no request that two parsers could read in two ways, on either listener."""

import asyncio
import re

from tests.support import upstream as up
from tests.support.stack import CHAT, ask, post, read_answer, run
from tests.wire.raw import exchange, listeners, status

BODY = b'{"a":1}'
GET = b"GET /v1/models HTTP/1.1\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
SMUGGLED = b"0\r\n\r\nGET /admin HTTP/1.1\r\nhost: localhost\r\n\r\n"

FRAMING = [
    b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n" + SMUGGLED,
    b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n" + SMUGGLED,
    b"content-length: 7\r\ncontent-length: 7\r\n\r\n" + BODY,
    b"content-length: 7\r\ncontent-length: 8\r\n\r\n" + BODY,
    b"content-length: 7, 7\r\n\r\n" + BODY,
    b"content-length: +7\r\n\r\n" + BODY,
    b"content-length: -7\r\n\r\n" + BODY,
    b"content-length: 0x7\r\n\r\n" + BODY,
    b"content-length: 7 7\r\n\r\n" + BODY,
    b"content-length:\r\n\r\n" + BODY,
    b"content-length: 99999999999999999999999\r\n\r\n" + BODY,
    b"transfer-encoding: xchunked\r\n\r\n" + SMUGGLED,
    b"transfer-encoding: identity\r\n\r\n" + SMUGGLED,
    b"transfer-encoding: chunked, identity\r\n\r\n" + SMUGGLED,
    b"transfer-encoding: gzip, chunked\r\n\r\n" + SMUGGLED,
    b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n" + SMUGGLED,
    b"transfer-encoding:\x0bchunked\r\n\r\n" + SMUGGLED,
    b'transfer-encoding: "chunked"\r\n\r\n' + SMUGGLED,
    b"transfer-encoding : chunked\r\n\r\n" + SMUGGLED,
    b"transfer-encoding: chunked\r\n\r\n7\n" + BODY + b"\r\n0\r\n\r\n",
    b"transfer-encoding: chunked\r\n\r\n0x7\r\n" + BODY + b"\r\n0\r\n\r\n",
    b"transfer-encoding: chunked\r\n\r\n-7\r\n" + BODY + b"\r\n0\r\n\r\n",
    b"transfer-encoding: chunked\r\n\r\n7\r\n" + BODY + b"xx0\r\n\r\n",
    b"transfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n" + BODY,
    b"x: a\nx2: b\r\ncontent-length: 0\r\n\r\n",
    b"x: a\r\n folded\r\ncontent-length: 0\r\n\r\n",
    b"x: a\rb\r\ncontent-length: 0\r\n\r\n",
    b"x: a\x00b\r\ncontent-length: 0\r\n\r\n",
    b"x: a\x01b\r\ncontent-length: 0\r\n\r\n",
    b"x\x00: a\r\ncontent-length: 0\r\n\r\n",
    b"x y: a\r\ncontent-length: 0\r\n\r\n",
    b": a\r\ncontent-length: 0\r\n\r\n",
    b"host: localhost\r\ncontent-length: 0\r\n\r\n",
    b"content-type: text/plain\r\ncontent-length: 0\r\n\r\n",
    b"content-encoding: identity\r\ncontent-encoding: gzip\r\ncontent-length: 0\r\n\r\n",
    b"expect: the-unexpected\r\ncontent-length: 0\r\n\r\n",
]
LINES = [
    b"GET /v1/models HTTP/1.1\nhost: localhost\n\n",
    b"GET /v1/models HTTP/1.1\r\n\r\n",
    GET + b"host:\r\n\r\n",
    GET + b"host: localhost\r\nhost: localhost\r\n\r\n",
    GET + b"host: localhost\r\nHOST: evil\r\n\r\n",
    GET + b"host: localhost, evil\r\n\r\n",
    GET + b"host: local host\r\n\r\n",
    GET + b"host: localhost/evil\r\n\r\n",
    GET + b"host: evil@localhost\r\n\r\n",
    GET + b"host: localhost:80:80\r\n\r\n",
    GET + b"host: [::1\r\n\r\n",
    GET + b"host: localhost:\r\n\r\n",
    GET + b"host: evil.example\r\n\r\n",
    GET + b"host: localhost.evil.example\r\n\r\n",
    b"GET http://localhost/v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET http://evil/ HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET * HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /v1/models\x00 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /v1/mod\xc3\xa9ls HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /v1/models HTTP/2.0\r\nhost: localhost\r\n\r\n",
    b"GET /v1/models HTTP/0.9\r\nhost: localhost\r\n\r\n",
    b"GET /v1/models\r\nhost: localhost\r\n\r\n",
    b"GET /v1/models HTTP/1.1 \r\nhost: localhost\r\n\r\n",
    b"GET\t/v1/models\tHTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"get /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"CONNECT evil:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]
PAYLOADS = [POST + tail for tail in FRAMING] + LINES
# What may be answered with something else than 400, because it is refused for another honest reason.
ALSO = {413, 415}

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")
PATHS = [
    *("/V1/models", "/v1//models", "//v1/models", "/v1/./models", "/v1/x/../models", "/v1/%6dodels", "/%76%31/models"),
    *(
        "/v1/models;x",
        "/v1/models%00",
        "/v1/models%2f..",
        "/v1\\models",
        "/v1/models/",
        "/./v1/models",
        "/../v1/models",
    ),
    *("/v1/chat/completions/", "/v1/chat%2fcompletions", "/v1/chat/completions;a=b", "/health/../v1/models", "/config"),
]


def test_ambiguous_requests_are_refused_and_the_connection_ends() -> None:
    disagreements: list[tuple[str, bytes, bytes]] = []

    async def work() -> None:
        async with listeners() as servers:
            for name, server in servers.items():
                answers = await asyncio.gather(*(exchange(server.port, payload) for payload in PAYLOADS))
                for payload, answer in zip(PAYLOADS, answers, strict=True):
                    one = len(re.findall(rb"HTTP/1\.1 \d{3} ", answer)) <= 1 and b"connection: close" in answer
                    if status(answer) not in {400, *ALSO} or not one:
                        disagreements.append((name, payload, answer[:120]))

    run(work())
    print(f"C1: {2 * len(PAYLOADS)} payloads x listeners, disagreements {len(disagreements)}")
    assert disagreements == []


def test_what_is_authorised_is_what_is_matched() -> None:
    """A3: with keys on, no spelling of a path or Host gets past the check."""
    wrong: list[tuple[str, int]] = []
    requests = [f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n" for path in PATHS for method in METHODS]
    requests += [line.decode("latin-1") for line in LINES]

    async def work() -> None:
        async with listeners(key="right-key") as servers:
            for server in servers.values():
                answers = await asyncio.gather(*(exchange(server.port, r.encode("latin-1"), 1.0) for r in requests))
                wrong.extend(
                    (request, status(answer))
                    for request, answer in zip(requests, answers, strict=True)
                    if status(answer) not in (400, 401, 403, 404, 405)
                )

    run(work())
    print(f"A3: {2 * len(requests)} variants, other answers than a refusal {len(wrong)}")
    assert wrong == []


def test_ordinary_requests_in_unusual_clothes_are_served() -> None:
    good = [
        b"\r\n\r\nGET /health HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHOST: LOCALHOST:8000\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: [::1]:8000\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: 192.168.1.20\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: app.localhost\r\n\r\n",
        b"GET /health?x=1&y=%20 HTTP/1.1\r\nhost: localhost\r\nx-empty:\r\n\r\n",
        b"GET /health HTTP/1.0\r\nhost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n\r\n",
    ]

    async def work() -> None:
        async with listeners() as servers:
            for server in servers.values():
                for request in good:
                    assert status(await exchange(server.port, request, 0.3)) == 200, request

    run(work())


def test_an_offer_to_upgrade_does_not_eat_the_next_request() -> None:
    offer = "connection: upgrade\r\nupgrade: h2c\r\n"
    upgrade = post(CHAT, extra=offer)
    cuts = (len(upgrade) // 2, upgrade.index(b"\r\n\r\n") + 4, len(upgrade) - 1, len(upgrade))
    head, _, body = upgrade.partition(b"\r\n\r\n")
    length = b"content-length: %d" % len(body)
    chunked = head.replace(length, b"transfer-encoding: chunked") + b"\r\n\r\n" + up.chunk(body) + b"0\r\n\r\n"

    async def work() -> None:
        async with listeners() as servers:
            port = servers["gateway"].port
            for cut in cuts:
                assert (await ask(port, upgrade, post(CHAT))).status == 200
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(upgrade[:cut])
                await asyncio.sleep(0.02)
                writer.write(upgrade[cut:] + post(CHAT) + chunked)
                statuses = [(await read_answer(reader)).status for _ in range(3)]
                writer.close()
                assert statuses == [200, 200, 200]

    run(work())


def test_a_trailer_cannot_add_a_credential() -> None:
    body = b"7\r\n" + BODY + b"\r\n0\r\nauthorization: Bearer right-key\r\n\r\n"

    async def work() -> None:
        async with listeners(key="right-key") as servers:
            answer = await ask(servers["gateway"].port, POST + b"transfer-encoding: chunked\r\n\r\n" + body)
            assert answer.status == 401

    run(work())
