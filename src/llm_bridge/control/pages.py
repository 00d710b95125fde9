"""The few pages and files for browsers: `/`, `/docs` and its assets. All from our own origin, no inline script."""

from __future__ import annotations

from pathlib import Path

from fastapi import Request, Response
from fastapi.responses import FileResponse, JSONResponse
from swagger_ui_bundle import swagger_ui_path

from llm_bridge.control.bridge import bridge_of
from llm_bridge.control.openapi import document
from llm_bridge.errors import NotFound

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""For every answer of this port: what a page may load comes from here, and nothing may frame it."""

_STATIC = Path(__file__).parent / "static"
_SWAGGER = Path(str(swagger_ui_path))
_ASSETS = {
    "page.css": (_STATIC / "page.css", "text/css; charset=utf-8"),
    "docs-init.js": (_STATIC / "docs-init.js", "text/javascript; charset=utf-8"),
    "swagger-ui.css": (_SWAGGER / "swagger-ui.css", "text/css; charset=utf-8"),
    "swagger-ui-bundle.js": (_SWAGGER / "swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    "favicon-32x32.png": (_SWAGGER / "favicon-32x32.png", "image/png"),
}


async def home(request: Request) -> Response:
    if "application/json" in request.headers.get("accept", ""):
        return JSONResponse({"message": "LLM-Bridge API is running"})
    return _file(request, _STATIC / "home.html", "text/html; charset=utf-8")


async def docs(request: Request) -> Response:
    return _file(request, _STATIC / "docs.html", "text/html; charset=utf-8")


async def docs_asset(request: Request, name: str) -> Response:
    """A file of the documentation page, from a fixed table: no path is ever made from `name`."""
    found = _ASSETS.get(name)
    if found is None:
        raise NotFound(what=(f"ファイル {name[:100]!r}", f"File {name[:100]!r}"))
    return _file(request, *found)


def _file(request: Request, path: Path, media_type: str) -> Response:
    """Browsers may keep it, and ask with its ETag whether it is still the same: then it is not sent again."""
    headers = {"cache-control": "no-cache"}
    answer = FileResponse(path, media_type=media_type, headers=headers, stat_result=path.stat())
    tag = answer.headers["etag"]
    offered = {item.strip().removeprefix("W/") for item in request.headers.get("if-none-match", "").split(",")}
    if tag in offered or "*" in offered:
        return Response(status_code=304, headers={**headers, "etag": tag}, media_type=media_type)
    return answer


async def openapi_json(request: Request) -> Response:
    return JSONResponse(document(request.app, locked=bool(bridge_of(request).settings.admin_key)))
