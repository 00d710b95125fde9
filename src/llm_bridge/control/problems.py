"""Errors → ``{"detail": "…"}``: one plain string in the client's language, whatever raised it."""

from __future__ import annotations

from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from llm_bridge.control.bridge import lang_of
from llm_bridge.errors import BadRequest, BridgeError, MethodNotAllowed, NotFound, render_detail

_TYPES = {
    "bool": ("true か false", "true or false"),
    "string": ("文字列", "a text"),
    "int": ("整数", "a whole number"),
    "model_attributes": ("JSON オブジェクト", "a JSON object"),
    "dict": ("JSON オブジェクト", "a JSON object"),
}
_SHOWN = 5


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(BridgeError, _bridge_error)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)


def answer(request: Request, error: BridgeError) -> Response:
    """The error as a response, with Retry-After and WWW-Authenticate where they belong."""
    headers = {"retry-after": str(error.retry_after)} if error.retry_after is not None else {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = str(error.fields["allowed"])
    return Response(render_detail(error, lang_of(request)), error.status, headers, "application/json")


async def _bridge_error(request: Request, error: Exception) -> Response:
    return answer(request, cast(BridgeError, error))


async def _validation(request: Request, error: Exception) -> Response:
    found = [_line(item) for item in cast(RequestValidationError, error).errors()[:_SHOWN]]
    unique = list(dict.fromkeys(found))
    problem = BadRequest(
        ja="リクエストに誤りがあります: " + "; ".join(ja for ja, _ in unique),
        en="The request is not valid: " + "; ".join(en for _, en in unique),
    )
    response = answer(request, problem)
    response.status_code = 422
    return response


def _line(item: dict[str, Any]) -> tuple[str, str]:
    """One of pydantic's findings as (ja, en). Values that the client sent are not repeated."""
    place, kind = item.get("loc", ()), str(item.get("type", ""))
    name = ".".join(str(part) for part in place[1:])[:100]
    ja, en = _finding(kind, item.get("ctx") or {})
    return ja.format(name=name or "本文"), en.format(name=name or "the body")


def _finding(kind: str, context: dict[str, Any]) -> tuple[str, str]:
    limit = context.get("max_length")
    known = {
        "missing": ("{name} は必須です", "{name} is required"),
        "string_too_long": (
            f"{{name}} が長すぎます（上限 {limit} 文字）",
            f"{{name}} is too long (limit {limit} characters)",
        ),
        "string_too_short": ("{name} が空です", "{name} is empty"),
    }
    if kind in known:
        return known[kind]
    if kind.startswith("json"):
        return "本文が JSON として読めません", "the body is not readable as JSON"
    for prefix, (ja, en) in _TYPES.items():
        if kind.startswith(prefix):
            return f"{{name}} には{ja}を指定してください", f"{{name}} must be {en}"
    return "{name} の値が正しくありません", "{name} has a wrong value"


async def _http(request: Request, error: Exception) -> Response:
    """What Starlette itself raises: no such path, no such method, an unreadable body."""
    problem = cast(HTTPException, error)
    if problem.status_code == 405:
        return answer(request, MethodNotAllowed(allowed=", ".join(sorted(_allowed(request)))))
    if problem.status_code == 404:
        path = request.url.path[:200]
        return answer(request, NotFound(what=(f"パス {path!r}", f"Path {path!r}")))
    response = answer(request, BadRequest(ja="リクエストの本文が読めません", en="The request body is not readable"))
    response.status_code = problem.status_code
    return response


def _allowed(request: Request) -> set[str]:
    """The methods of all routes that match this path."""
    found: set[str] = set()
    for route in request.app.router.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return found
