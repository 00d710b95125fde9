"""The OpenAPI document, in version 3.0: the packaged swagger-ui draws nothing for the 3.1 that FastAPI writes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from llm_bridge.control.auth import Role
from llm_bridge.control.guarded import ROLE
from llm_bridge.version import VERSION

TITLE = "llm-bridge"
DESCRIPTION = (
    "ローカルモデルとAPIモデルを1つのエンドポイントで使うための管理APIです。"
    "推論は :8000 の OpenAI 互換APIで行います。\n\n"
    "The management API of a bridge that serves local and API models on one endpoint. "
    "Inference is on :8000, compatible with OpenAI."
)


def document(app: FastAPI, *, locked: bool) -> dict[str, Any]:
    """The document; `locked` says that admin operations need the key."""
    made = get_openapi(
        title=TITLE, version=VERSION, description=DESCRIPTION, openapi_version="3.0.3", routes=app.routes
    )
    for path in made["paths"].values():
        for operation in path.values():
            _finish(operation, locked=locked)
    made.setdefault("components", {})["securitySchemes"] = {
        "admin": {"type": "http", "scheme": "bearer", "description": "LLM_BRIDGE_ADMIN_KEY"}
    }
    schemas = made["components"].get("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    older: dict[str, Any] = _older(made)
    return older


def _finish(operation: dict[str, Any], *, locked: bool) -> None:
    """Say the truth where FastAPI assumes: its own form of validation errors is not ours; who may call what."""
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    if locked and operation[ROLE] == Role.ADMIN.value:
        operation["security"] = [{"admin": []}]


def _older(node: Any) -> Any:
    """JSON Schema of OpenAPI 3.1 → 3.0: nullable, single example, enum for const."""
    if isinstance(node, list):
        return [_older(item) for item in node]
    if not isinstance(node, dict):
        return node
    done = {key: _older(value) for key, value in node.items() if key not in ("example", "examples")}
    for key in ("example", "examples"):
        if key in node:  # examples are data and stay as they are
            done[key] = node[key]
    options = done.get("anyOf")
    if isinstance(options, list) and {"type": "null"} in options:
        rest = [option for option in options if option != {"type": "null"}]
        del done["anyOf"]
        done |= {**(rest[0] if len(rest) == 1 else {"anyOf": rest}), "nullable": True}
    if isinstance(done.get("examples"), list):
        done["example"] = done.pop("examples")[0]
    if "const" in done:
        done["enum"] = [done.pop("const")]
    return done
