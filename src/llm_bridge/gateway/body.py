"""The body of an inference call: read strictly once; what goes on is written anew from what was checked.

Because the upstream never sees the client's bytes, no duplicate key, odd number or exotic escape can mean one thing to
our checks and another to the next parser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from llm_bridge.errors import BadRequest

MAX_DEPTH = 64

# Where the call goes and with whose credentials is the configuration's business, never the client's
# (LiteLLM CVE-2024-6587: an `api_base` in a body carried the provider's key to a host of the caller's choice).
ROUTING_FIELDS = frozenset(
    (
        "api_base",
        "api_key",
        "api_version",
        "azure_ad_token",
        "base_url",
        "client",
        "client_secret",
        "custom_llm_provider",
        "deployment_id",
        "extra_body",
        "extra_headers",
        "fallbacks",
        "headers",
        "litellm_credential_name",
        "mock_response",
        "model_list",
        "organization",
        "proxy",
    )
)
_ROUTING_PREFIXES = ("aws_", "azure_", "vertex_", "litellm_", "watsonx_")


@dataclass(slots=True)
class Call:
    """A checked body: the document, the model it names (``""``: the default), whether it asks for a stream."""

    document: dict[str, Any]
    model: str
    stream: bool


def parse(body: bytes) -> Call:
    """Read a body.

    Raises:
        BadRequest: not a JSON object (RFC 8259: no NaN, no duplicate meaning), deeper than `MAX_DEPTH`, or with a field
            that only the configuration may set.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as cause:
        raise BadRequest(ja=f"本文がJSONではありません: {cause}", en=f"the body is not JSON: {cause}") from None
    if type(document) is not dict:
        raise BadRequest(ja="本文はJSONオブジェクトにしてください", en="the body must be a JSON object")
    # A document with few brackets cannot be deep: the walk is for the others.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _deeper_than(document, MAX_DEPTH):
        raise BadRequest(
            ja=f"本文の入れ子が深すぎます（{MAX_DEPTH} まで）", en=f"nested deeper than {MAX_DEPTH} levels"
        )
    _refuse_routing(document)
    model = document.get("model")
    if model is not None and type(model) is not str:
        raise BadRequest(ja="model は文字列にしてください", en="model must be a string", param="model")
    stream = document.get("stream")
    if stream is not None and type(stream) is not bool:
        raise BadRequest(ja="stream は true か false にしてください", en="stream must be true or false", param="stream")
    return Call(document, model or "", bool(stream))


def _refuse_routing(document: dict[str, Any]) -> None:
    for name in document:
        if name in ROUTING_FIELDS or name.startswith(_ROUTING_PREFIXES):
            raise BadRequest(
                ja=f"{name} はリクエストでは指定できません（設定ファイルで指定します）",
                en=f"{name} cannot be set by a request (it belongs to the configuration)",
                param=name,
            )


def _deeper_than(document: object, limit: int) -> bool:
    """Breadth first, so that depth costs no stack."""
    level: list[Any] = [document]
    for _ in range(limit):
        children: list[Any] = []
        for item in level:
            children.extend(item.values() if type(item) is dict else item)
        level = [child for child in children if type(child) is dict or type(child) is list]
        if not level:
            return False
    return True
