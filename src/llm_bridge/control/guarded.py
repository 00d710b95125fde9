"""The route class of the management API: authorises the matched route before its body is read, and is the root of a
request, where an unforeseen error becomes a log entry and a plain 500."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from llm_bridge.control import problems
from llm_bridge.control.auth import Role, authorise
from llm_bridge.control.bridge import bridge_of
from llm_bridge.errors import BridgeError, Internal

log = logging.getLogger(__name__)

ROLE = "x-llm-bridge-role"
"""The OpenAPI extension that carries a route's role; a route without it cannot be built."""


class GuardedRoute(APIRoute):
    @property
    def role(self) -> Role:
        return Role((self.openapi_extra or {})[ROLE])

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        role, answer = self.role, super().get_route_handler()

        async def guarded(request: Request) -> Response:
            authorise(role, request.headers.raw, bridge_of(request).settings.admin_key)
            try:
                return await answer(request)
            except (BridgeError, HTTPException, RequestValidationError):
                raise
            except Exception:
                request_id = str(request.scope.get("state", {}).get("request_id") or secrets.token_hex(8))
                log.exception("request %s failed: %s %s", request_id, request.method, request.url.path)
                return problems.answer(request, Internal(request_id=request_id))

        return guarded
