"""The management API: its route table, and the app made from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware

from llm_bridge.control import config, models, pages, problems, schemas, status
from llm_bridge.control.auth import Role
from llm_bridge.control.bridge import Bridge
from llm_bridge.control.guarded import ROLE, GuardedRoute
from llm_bridge.control.headers import SecureHeaders
from llm_bridge.version import VERSION

__all__ = ["ROUTES", "Bridge", "Entry", "create_app"]

PUBLIC, ADMIN = Role.PUBLIC, Role.ADMIN


@dataclass(frozen=True, slots=True)
class Entry:
    """One endpoint. `errors` are the statuses it may answer with besides 401 and 500."""

    method: str
    path: str
    handler: Callable[..., Any]
    role: Role
    title: str = ""
    errors: tuple[int, ...] = ()
    text: bool = False
    """The body is a config, as YAML or JSON."""
    hidden: bool = False


ROUTES = (
    Entry("GET", "/", pages.home, PUBLIC, "動作確認 / is it running"),
    Entry("GET", "/models", models.list_models, ADMIN, "モデルの一覧 / list the models"),
    Entry(
        "POST",
        "/models/manage",
        models.manage_model,
        ADMIN,
        "追加・切り替え / add or switch",
        (400, 404, 409, 422, 503),
    ),
    Entry("POST", "/models/download", models.download_model, ADMIN, "ダウンロード / download", (400, 404, 422, 501)),
    Entry(
        "POST", "/models/import", models.import_model, ADMIN, ".gguf の取り込み / import a .gguf", (400, 404, 422, 507)
    ),
    Entry("GET", "/models/{name:path}", models.get_model, ADMIN, "1つのモデル / one model", (404,)),
    Entry("DELETE", "/models/{name:path}", models.delete_model, ADMIN, "削除 / remove a model", (404, 409, 422)),
    Entry("GET", "/config", config.get_config, ADMIN, "設定（秘密は伏せ字） / the config, secrets masked"),
    Entry(
        "PUT", "/config", config.put_config, ADMIN, "設定の置き換え / replace it", (409, 412, 413, 422, 503), text=True
    ),
    Entry("POST", "/config/validate", config.validate_config, ADMIN, "設定の検査 / check one", (413, 422), text=True),
    Entry("POST", "/config/reload", config.reload_config, ADMIN, "再読み込み・適用 / apply the file", (409, 422, 503)),
    Entry("GET", "/config/history", config.config_history, ADMIN, "以前の設定 / earlier revisions"),
    Entry(
        "POST",
        "/config/rollback",
        config.rollback_config,
        ADMIN,
        "以前の設定に戻す / go back",
        (404, 409, 412, 422, 503),
    ),
    Entry("GET", "/status", status.get_status, ADMIN, "動作状況 / what is running"),
    Entry("GET", "/health", status.get_health, PUBLIC, "生存確認 / liveness"),
    Entry(
        "GET",
        "/health/liveliness",
        status.get_health,
        PUBLIC,
        "生存確認（LiteLLMの綴り） / liveness, as LiteLLM spells it",
    ),
    Entry("GET", "/health/readiness", status.get_readiness, PUBLIC, "準備確認 / readiness", (503,)),
    Entry("GET", "/docs", pages.docs, PUBLIC, hidden=True),
    Entry("GET", "/docs/{name}", pages.docs_asset, PUBLIC, hidden=True),
    Entry("GET", "/openapi.json", pages.openapi_json, PUBLIC, hidden=True),
)


def create_app(bridge: Bridge) -> FastAPI:
    """The ASGI app. Host, Origin, content type and size were checked by the edge in front of it."""
    app = FastAPI(
        title="llm-bridge",
        version=VERSION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[Middleware(SecureHeaders, csp=pages.CSP)],
    )
    app.state.bridge = bridge
    problems.install(app)
    app.router.route_class = GuardedRoute
    for entry in ROUTES:
        _add(app.router, entry)
    return app


def _add(router: APIRouter, entry: Entry) -> None:
    extra: dict[str, Any] = {ROLE: entry.role.value}
    if entry.text:
        extra["requestBody"] = _CONFIG_BODY
    refused = entry.errors + ((401, 500) if entry.role is ADMIN else ())
    router.add_api_route(
        entry.path,
        entry.handler,
        methods=[entry.method],
        summary=entry.title,
        tags=[entry.path.split("/")[1] or "service"],
        operation_id=f"{entry.method.lower()}_{entry.handler.__name__}_{entry.path.count('/')}",
        responses={code: {"model": schemas.Problem} for code in sorted(refused)},
        openapi_extra=extra,
        include_in_schema=not entry.hidden,
    )


_EXAMPLE = "model_list:\n  - model_name: bridge-mini\n    litellm_params:\n      model: ollama/bridge-mini\n"
_CONFIG_BODY = {
    "required": True,
    "description": "config.yaml 全体。伏せ字は保存済みの値を指す / the whole file; masked values keep what is stored",
    "content": {
        "application/yaml": {"schema": {"type": "string"}, "example": _EXAMPLE},
        "application/json": {"schema": {"$ref": "#/components/schemas/ConfigAnswer"}},
    },
}
