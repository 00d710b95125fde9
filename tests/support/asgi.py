"""Calls an ASGI app in this process: one request in, one answer out. Standard library only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[[Any, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        """The error's text, after checking that the body is exactly ``{"detail": "…"}``."""
        document = self.json
        assert set(document) == {"detail"}, document
        assert isinstance(document["detail"], str)
        return document["detail"]


async def send(
    app: App, method: str, path: str, body: object = None, headers: Mapping[str, str | bytes] | None = None
) -> Answer:
    """One request. `body` is bytes, or anything JSON can say; a ``?query`` in `path` is taken apart."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    fields = {"host": "localhost", **({"content-type": "application/json"} if data else {}), **(headers or {})}
    route, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": route,
        "raw_path": route.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.lower().encode(), v if isinstance(v, bytes) else v.encode()) for k, v in fields.items()],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 9999),
        "state": {},
    }
    answer, waiting = Answer(), [{"type": "http.request", "body": data, "more_body": False}]

    async def receive() -> Message:
        return waiting.pop() if waiting else await asyncio.get_running_loop().create_future()

    async def collect(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {k.decode().lower(): v.decode() for k, v in message["headers"]}
        else:
            answer.body += message.get("body", b"")

    await app(scope, receive, collect)
    return answer
