"""The gateway's route table and its cold routes. The table is the contents page of port 8000."""

from __future__ import annotations

import time
from collections.abc import Callable

import orjson

from llm_bridge.errors import BridgeError, Lang, MethodNotAllowed, ModelNotFound, NotFound, render_openai
from llm_bridge.gateway import surfaces
from llm_bridge.gateway.forward import Forwarder
from llm_bridge.models.pool import Pool
from llm_bridge.settings import Settings
from llm_bridge.wire.exchange import JSON, Exchange, Handler
from llm_bridge.wire.head import Head, unquoted
from llm_bridge.wire.keys import KeyCheck

_MODELS = "/v1/models"


class Gateway:
    """What :8000 serves (an `exchange.App`).

    Args:
        ready: is the bridge able to answer inference calls now?
    """

    def __init__(self, settings: Settings, pool: Pool, ready: Callable[[], bool]) -> None:
        self._lang: Lang = settings.language
        self._max_body = settings.max_body
        self._pool = pool
        self._ready = ready
        self._authorise = KeyCheck(settings.api_key, "LLM_BRIDGE_API_KEY")
        self._created = int(time.time())

        def forward(surface: surfaces.Surface) -> Handler:
            return Forwarder(pool, surface, self._lang)

        public: dict[tuple[str, str], Handler] = {
            ("GET", "/health"): self._health,
            ("GET", "/health/liveliness"): self._alive,
            ("GET", "/health/liveness"): self._alive,
            ("GET", "/health/readiness"): self._readiness,
        }
        keyed: dict[tuple[str, str], Handler] = {
            ("GET", _MODELS): self._models,
            ("POST", "/v1/chat/completions"): forward(surfaces.CHAT),
            ("POST", "/v1/completions"): forward(surfaces.COMPLETIONS),
            ("POST", "/v1/embeddings"): forward(surfaces.EMBEDDINGS),
            ("POST", "/v1/responses"): forward(surfaces.RESPONSES_API),
            ("POST", "/v1/rerank"): forward(surfaces.RERANK),
            ("POST", "/v1/messages"): forward(surfaces.MESSAGES),
            ("POST", "/v1/messages/count_tokens"): forward(surfaces.COUNT_TOKENS),
        }
        keyed |= {(method, path.removeprefix("/v1")): handler for (method, path), handler in keyed.items()}
        self._public = public
        self._keyed = keyed

    # -- exchange.App

    def route(self, head: Head) -> tuple[Handler, int]:
        place = (head.method if head.method != "HEAD" else "GET", head.path)
        handler = self._public.get(place)
        if handler is not None:
            return handler, 0
        self._authorise(head.fields)
        handler = self._keyed.get(place)
        if handler is not None:
            return handler, self._max_body if head.method == "POST" else 0
        if place[0] == "GET" and head.path.startswith((_MODELS + "/", "/models/")):
            return self._model, 0
        raise self._unmatched(head)

    def render(self, head: Head | None, error: BridgeError) -> tuple[bytes, bytes]:
        if head is None:
            return render_openai(error, self._lang), JSON
        path = head.path if head.path.startswith("/v1/") else f"/v1{head.path}"
        surface = surfaces.SURFACES.get(path, surfaces.CHAT)
        return surface.render(error, head.lang(self._lang)), JSON

    def _unmatched(self, head: Head) -> BridgeError:
        allowed = sorted({method for method, path in (*self._public, *self._keyed) if path == head.path})
        if allowed:
            return MethodNotAllowed(allowed=" / ".join(allowed))
        return NotFound(what=f"{head.method} {head.path}")

    # -- cold routes

    async def _health(self, exchange: Exchange) -> None:
        ready = self._ready()
        exchange.send(200, JSON, orjson.dumps({"status": "ok" if ready else "starting", "ready": ready}))

    async def _alive(self, exchange: Exchange) -> None:
        exchange.send(200, JSON, b'{"status":"ok"}')

    async def _readiness(self, exchange: Exchange) -> None:
        ready = self._ready()
        exchange.send(200 if ready else 503, JSON, orjson.dumps({"ready": ready}))

    async def _models(self, exchange: Exchange) -> None:
        entries = [self._entry(name) for name in self._pool.names()]
        exchange.send(200, JSON, orjson.dumps({"object": "list", "data": entries}))

    async def _model(self, exchange: Exchange) -> None:
        path = exchange.head.path
        name = unquoted(path.removeprefix("/v1").removeprefix("/models/"))
        known = self._pool.names()
        if name not in known:
            raise ModelNotFound(model=name, known=", ".join(known))
        exchange.send(200, JSON, orjson.dumps(self._entry(name)))

    def _entry(self, name: str) -> dict[str, object]:
        """One model in OpenAI's list form."""
        return {"id": name, "object": "model", "created": self._created, "owned_by": self._pool.find(name).provider}
