"""A4, A5, A7: keys as they come, and pages that try to drive localhost."""

import asyncio
import itertools
import random

import pytest

from tests.support.stack import CHAT, ask, post, run
from tests.wire.raw import exchange, listeners, status

HOSTS = [
    *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "localhost.", "a.b"),
    *("127.0.0.1.nip.io", "0x7f000001.evil", "1.2.3", "xn--localhost-9d", "169.254.169.254.evil", "metadata"),
]
ORIGINS = [
    "http://evil.example",
    "https://evil.example",
    "null",
    "http://localhost:1",
    "http://localhost.evil",
    "file://",
]
TYPES = [
    *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "text/json"),
    "application/json5",
]


def request(method: str = "POST", host: str = "localhost", kind: str = "application/json", extra: str = "") -> bytes:
    body = post(CHAT).partition(b"\r\n\r\n")[2] if method == "POST" else b""
    typed = f"content-type: {kind}\r\n" if kind else ""
    return (
        f"{method} /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\n{typed}{extra}content-length: {len(body)}\r\n\r\n"
    ).encode() + body


def test_pages_of_other_sites_can_do_nothing() -> None:
    attempts = [request(host=host) for host in HOSTS if host != "localhost."]
    attempts += [request("GET", host=host) for host in HOSTS if host != "localhost."]
    attempts += [request(extra=f"origin: {origin}\r\n") for origin in ORIGINS]
    attempts += [request(extra=f"sec-fetch-site: {site}\r\n") for site in ("cross-site", "same-site")]
    attempts += [request(kind=kind) for kind in TYPES]
    accepted: list[bytes] = []

    async def work() -> None:
        async with listeners() as servers:
            for server in servers.values():
                answers = await asyncio.gather(*(exchange(server.port, attempt, 1.0) for attempt in attempts))
                accepted.extend(
                    a for a, answer in zip(attempts, answers, strict=True) if status(answer) not in (400, 403, 415)
                )

    run(work())
    print(f"A7: {2 * len(attempts)} hostile Host, Origin and content types, accepted {len(accepted)}")
    assert accepted == []


@pytest.mark.parametrize(
    "extra",
    ["origin: http://localhost:8000\r\nhost: localhost:8000\r\n", "sec-fetch-site: same-origin\r\nhost: [::1]\r\n"],
)
def test_our_own_pages_may(extra: str) -> None:
    async def work() -> None:
        async with listeners() as servers:
            mine = post(CHAT, extra=extra).replace(b"host: localhost\r\n", b"", 1)
            assert (await ask(servers["gateway"].port, mine)).status == 200

    run(work())


def test_odd_keys_are_simply_wrong() -> None:
    """A5: whatever is sent as a key, the answer is 401 and never an error of ours."""
    rng = random.Random(5)
    keys = [bytes(rng.choice(range(0x20, 0x7F)) for _ in range(rng.randrange(60))) for _ in range(200)]
    keys += [bytes(rng.choice(range(0x80, 0x100)) for _ in range(20)) for _ in range(200)]
    keys += [
        "日本語の鍵".encode(),
        b"right-ke",
        b"right-key ",
        b"right-keyy",
        b"Right-Key",
        b"a" * 60_000,
        b"",
        b"\t",
        b"\xff",
    ]
    names = (b"authorization: Bearer ", b"x-api-key: ", b"api-key: ", b"authorization: Basic ", b"authorization: ")
    wrong: list[tuple[bytes, int]] = []

    async def work() -> None:
        async with listeners(key="right-key") as servers:
            for server in servers.values():
                for key, name in zip(keys, itertools.cycle(names)):
                    line = name + key
                    if line in (b"authorization: Bearer right-key ", b"x-api-key: right-key ", b"api-key: right-key "):
                        continue  # outer blanks are not part of a field's value (RFC 9110 5.5)
                    data = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n" + line
                    got = status(await exchange(server.port, data + b"\r\ncontent-type: application/json\r\n\r\n", 1.0))
                    if got != 401:
                        wrong.append((line[:60], got))

    run(work())
    print(f"A5: {2 * len(keys)} odd keys, other answers than 401: {len(wrong)}")
    assert wrong == []


def test_two_credentials_in_one_request_are_refused() -> None:
    """A4: every pair of ways, equal and different keys, in both orders."""
    ways = ("authorization: Bearer {}", "x-api-key: {}", "api-key: {}")
    different = 0

    async def work() -> None:
        nonlocal different
        async with listeners(key="right-key") as servers:
            for server in servers.values():
                for one, two in itertools.permutations(ways, 2):
                    for first, second in itertools.product(("right-key", "other"), repeat=2):
                        extra = f"{one.format(first)}\r\n{two.format(second)}\r\n"
                        expected = 200 if first == second == "right-key" else 401
                        different += (await ask(server.port, post(CHAT, extra=extra))).status != expected
                for way in ways:
                    extra = f"{way.format('right-key')}\r\n" * 2
                    different += (await ask(server.port, post(CHAT, extra=extra))).status != 400
                different += (await ask(server.port, post(CHAT, "/v1/chat/completions?key=right-key"))).status != 401

    run(work())
    print(f"A4: all pairs, differences {different}")
    assert different == 0
