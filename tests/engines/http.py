"""A blocking call to an engine, for tests."""

from __future__ import annotations

import asyncio
import http.client
from dataclasses import dataclass
from typing import Any

import orjson

from llm_bridge.engines.base import RunningEngine


@dataclass
class Answer:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of a stream of server-sent events, without its [DONE]."""
        lines = [line.removeprefix(b"data: ") for line in self.body.split(b"\n") if line.startswith(b"data: ")]
        return [orjson.loads(line) for line in lines if line != b"[DONE]"]


def call(engine: RunningEngine, path: str, body: object | None, key: str | None = None) -> Answer:
    """POST `body` (JSON, or bytes as they are), or GET without one."""
    connection = http.client.HTTPConnection(engine.host, engine.port, timeout=30)
    data = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
    bearer = {"authorization": f"Bearer {engine.key if key is None else key}"}
    try:
        connection.request("GET" if data is None else "POST", path, data, bearer)
        response = connection.getresponse()
        return Answer(response.status, response.read())
    finally:
        connection.close()


async def acall(engine: RunningEngine, path: str, body: object | None, key: str | None = None) -> Answer:
    return await asyncio.to_thread(call, engine, path, body, key)
