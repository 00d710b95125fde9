"""An open-loop load: calls start at their times whatever the server does, and each must end in exactly one way."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import orjson

from tests.support.stack import Answer, post, read_answer


@dataclass
class Record:
    """What became of the calls. `failures` holds the reason of each that did not end as it should."""

    total: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def verdict(answer: Answer, *, stream: bool) -> str:
    """Empty if the call ended in the one right way."""
    if answer.status != 200:
        return f"{answer.status} {answer.body[:200]!r}"
    if not answer.whole:
        return "cut off"
    if not stream:
        return "" if "choices" in answer.json else f"no choices: {answer.body[:200]!r}"
    blocks = [block.removeprefix(b"data: ") for block in answer.body.split(b"\n\n") if block]
    ends = [block for block in blocks if block == b"[DONE]" or "error" in orjson.loads(block)]
    if len(ends) != 1 or blocks[-1] is not ends[0]:
        return f"{len(ends)} terminal events, last {blocks[-1][:200]!r}"
    return "" if ends[0] == b"[DONE]" else f"error event {ends[0][:200]!r}"


async def one(port: int, body: dict[str, object], record: Record) -> None:
    began = time.monotonic()
    record.total += 1
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(post(body))
            async with asyncio.timeout(60):
                reason = verdict(await read_answer(reader), stream=bool(body.get("stream")))
        finally:
            writer.transport.abort()
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as broken:
        reason = repr(broken)
    record.seconds.append(time.monotonic() - began)
    if reason:
        record.failures.append(reason)


async def open_loop(port: int, rate: float, stop: asyncio.Event, record: Record) -> None:
    """`rate` calls a second until `stop`, every other one a stream; then wait for all of them."""
    tasks: set[asyncio.Task[None]] = set()
    began = time.monotonic()
    number = 0
    while not stop.is_set():
        number += 1
        body: dict[str, object] = {
            "model": "default",
            "messages": [{"role": "user", "content": f"hello {number}"}],
            "max_tokens": 8,
            "stream": number % 2 == 0,
        }
        task = asyncio.create_task(one(port, body, record))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
    await asyncio.gather(*tasks)
