"""Bytes both ways: from a checked call to its upstream, and back, with exactly one end.

Order of a call: parse → lease → prepare → send → (stream | whole). Every wait in it ends at once when the client leaves
(the edge cancels the task), and leaving a block gives back what it held: the lease, the upstream's connection.
"""

from __future__ import annotations

import asyncio
import functools
from time import perf_counter_ns
from urllib.parse import quote

import orjson

from llm_bridge.errors import BadRequest, BridgeError, ConnectFailed, Lang, UpstreamFailed, UpstreamTimeout
from llm_bridge.gateway.body import Call, parse
from llm_bridge.gateway.fields import demands_a_call, for_engine
from llm_bridge.gateway.surfaces import Surface
from llm_bridge.models.pool import Pool, Route
from llm_bridge.wire.client import Response
from llm_bridge.wire.exchange import EVENTS, JSON, Exchange
from llm_bridge.wire.sse import Relay

_ANSWER_MAX = 64 << 20  # bytes of an answer that does not stream
_PAUSES = (0.02, 0.2, None)  # seconds before a refused connection to the local engine is tried again
_TIMEOUT = 600.0  # seconds to the first byte and between two, unless the entry says otherwise


class Forwarder:
    """Carries calls of one surface to whatever serves the model they name."""

    def __init__(self, pool: Pool, surface: Surface, lang: Lang) -> None:
        self._pool = pool
        self._surface = surface
        self._lang = lang

    async def __call__(self, exchange: Exchange) -> None:
        clock = _Clock()
        call = parse(exchange.body)
        for pause in _PAUSES:
            async with self._pool.lease(call.model) as route:
                try:
                    await self._carry(exchange, route, call, clock)
                except ConnectFailed:
                    # Not a byte was sent, so nothing is repeated: the engine was replaced or is being restarted.
                    if route.lane != "local" or pause is None:
                        raise
                else:
                    return
            await asyncio.sleep(pause)

    async def _carry(self, exchange: Exchange, route: Route, call: Call, clock: _Clock) -> None:
        """One call on one route, within the time the model's entry allows.

        `timeout` bounds a whole call that does not stream; `stream_timeout` the wait for each next byte.
        """
        whole = route.entry.timeout
        if call.stream or whole is None:
            limit = (route.entry.stream_timeout if call.stream else None) or whole or _TIMEOUT
            await self._exchange(exchange, route, call, (limit, limit), clock)
            return
        try:
            async with asyncio.timeout(whole):
                await self._exchange(exchange, route, call, (_TIMEOUT, _TIMEOUT), clock)
        except TimeoutError:
            raise UpstreamTimeout(upstream=route.upstream.name, phase="whole answer", seconds=whole) from None

    async def _exchange(
        self, exchange: Exchange, route: Route, call: Call, limits: tuple[float, float], clock: _Clock
    ) -> None:
        body = self._prepare(call, route)
        path = self._surface.path if route.lane == "local" else self._surface.path.removeprefix("/v1")
        clock.out()
        async with await route.upstream.send("POST", path, body, limits) as response:
            clock.back()
            if response.status == 200 and response.header("content-type").startswith("text/event-stream"):
                await self._stream(exchange, response, self._headers(route, clock))
            else:
                await self._whole(exchange, response, route, clock)

    def _prepare(self, call: Call, route: Route) -> bytes:
        if route.lane == "local":
            document = for_engine(self._surface.name, call.document)
            if not route.tools and demands_a_call(document):
                raise BadRequest(
                    ja=f"モデル {route.alias} はツールを呼び出せません（チャットテンプレートが対応していません）",
                    en=f"model {route.alias} cannot call tools (its chat template does not know them)",
                    param="tool_choice",
                )
        elif self._surface.direct:
            document = call.document
        else:
            path, provider = self._surface.path, route.entry.provider
            raise BadRequest(
                ja=f"{path} は {provider} のモデルではまだ使えません",
                en=f"{path} is not available for models of {provider} yet",
                param="model",
            )
        document["model"] = route.model
        return orjson.dumps(document)

    @staticmethod
    def _headers(route: Route, clock: _Clock) -> bytes:
        return b"%bx-llm-bridge-overhead-us: %d\r\n" % (_served_by(route.alias, route.lane), clock.overhead_us())

    async def _stream(self, exchange: Exchange, response: Response, headers: bytes) -> None:
        relay = Relay(self._surface.dialect)
        lang = exchange.head.lang(self._lang)
        exchange.begin(200, EVENTS, headers)
        exchange.terminal = lambda error: self._surface.terminal(error, lang)
        while not relay.ended:
            piece = await response.read()
            if not piece:
                raise UpstreamFailed(upstream=self._surface.path, reason="the stream ended before its last event")
            if events := relay.feed(piece):
                await exchange.write(events)
        exchange.finish()
        await response.rest()

    async def _whole(self, exchange: Exchange, response: Response, route: Route, clock: _Clock) -> None:
        body = await response.body(_ANSWER_MAX)
        clock.back()
        if not response.header("content-type").startswith("application/json"):
            raise UpstreamFailed(upstream=route.alias, reason=f"HTTP {response.status}, not JSON")
        if response.status >= 400 and route.lane == "local":
            error = _engine_error(response.status, body)
            body = self._surface.render(error, exchange.head.lang(self._lang))
        exchange.send(response.status, JSON, body, self._headers(route, clock))


# The engine reports these as 500, but the call is what is wrong.
_CALLERS_FAULT = ("Failed to parse", "image input is not", "audio input is not", "Unknown ", "input (")


@functools.lru_cache(maxsize=1024)
def _served_by(alias: str, lane: str) -> bytes:
    """Which model and lane answered, as header lines; an alias in any script, percent-encoded where it has to be."""
    return f"x-llm-bridge-model: {quote(alias, safe=' :/._-@')}\r\nx-llm-bridge-lane: {lane}\r\n".encode("ascii")


class _Clock:
    """Time spent in the bridge itself, for the overhead header: until the call is sent, and after its answer begins."""

    __slots__ = ("_back", "_out", "_start")

    def __init__(self) -> None:
        self._start = perf_counter_ns()
        self._out = self._back = self._start

    def out(self) -> None:
        self._out = perf_counter_ns()

    def back(self) -> None:
        self._back = perf_counter_ns()

    def overhead_us(self) -> int:
        return (self._out - self._start + perf_counter_ns() - self._back) // 1000


class _EngineError(BridgeError):
    """An error answer of the engine, in our envelope."""

    ja = en = "{message}"


def _engine_error(status: int, body: bytes) -> BridgeError:
    """llama.cpp answers ``{"error": {"code": int, "message": str, "type": str, …}}``."""
    try:
        reported = orjson.loads(body)["error"]
        message, kind = str(reported["message"]), str(reported.get("type", ""))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message, kind = f"HTTP {status}", ""
    if message.startswith(_CALLERS_FAULT):
        status = 400
    error = _EngineError(message=message)
    too_long = kind == "exceed_context_size_error"
    error.status, error.code = status, "context_length_exceeded" if too_long else kind or "engine_error"  # type: ignore[misc]
    error.kind = "invalid_request_error" if status < 500 else "server_error"  # type: ignore[misc]
    return error
