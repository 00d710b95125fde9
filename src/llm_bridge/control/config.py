"""/config: the file as JSON in LiteLLM's shape, secrets masked; replaced, validated, reloaded, rolled back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from fastapi import Request, Response

from llm_bridge.config import mask
from llm_bridge.config.schema import MAX_BYTES
from llm_bridge.control import schemas
from llm_bridge.control.bridge import Bridge, Result, TheBridge, TheLang
from llm_bridge.errors import ConfigInvalid, Lang, TooLarge

REVISION_HEADER = "etag"


async def get_config(bridge: TheBridge, response: Response) -> schemas.ConfigAnswer:
    document, revision = await asyncio.to_thread(_document, bridge)
    response.headers[REVISION_HEADER] = f'"{revision}"'
    return schemas.ConfigAnswer.model_validate(document)


async def put_config(bridge: TheBridge, lang: TheLang, request: Request, response: Response) -> schemas.ChangeAnswer:
    text = await asyncio.to_thread(_incoming, bridge, await _body(request))
    result = await bridge.manager.put_config(text, await _expected(bridge, request))
    return _changed(result, response, lang, ("設定を保存しました", "The configuration was saved"))


async def validate_config(bridge: TheBridge, request: Request) -> schemas.ValidateAnswer:
    data = await _body(request)
    config = await asyncio.to_thread(lambda: bridge.store.validate(_incoming(bridge, data)))
    return schemas.ValidateAnswer(
        revision=config.revision, models=[entry.name for entry in config.models], unapplied=list(config.unapplied)
    )


async def reload_config(bridge: TheBridge, lang: TheLang, response: Response) -> schemas.ChangeAnswer:
    result = await bridge.manager.reload()
    return _changed(result, response, lang, ("設定を再読み込みしました", "The configuration was reloaded"))


async def config_history(bridge: TheBridge) -> list[schemas.Revision]:
    current = await asyncio.to_thread(bridge.store.disk_revision)
    seen: set[str] = set()
    answer: list[schemas.Revision] = []
    for generation in await asyncio.to_thread(bridge.store.history):
        newest = generation.revision not in seen
        seen.add(generation.revision)
        answer.append(
            schemas.Revision(
                number=generation.number,
                revision=generation.revision,
                saved=datetime.fromtimestamp(generation.saved, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                current=newest and generation.revision == current,
            )
        )
    return answer


async def rollback_config(
    bridge: TheBridge, lang: TheLang, request: Request, response: Response, body: schemas.RollbackRequest
) -> schemas.ChangeAnswer:
    result = await bridge.manager.rollback(body.revision, await _expected(bridge, request))
    said = (f"設定を版 {result.revision} に戻しました", f"The configuration is back at revision {result.revision}")
    return _changed(result, response, lang, said)


def _document(bridge: Bridge) -> tuple[object, str]:
    """The masked document and the file's revision; while the file has a mistake, the document that runs."""
    try:
        config = bridge.store.read()
    except ConfigInvalid:
        return mask.masked(bridge.store.current.raw), bridge.store.disk_revision()
    return mask.masked(config.raw), config.revision


def _incoming(bridge: Bridge, data: bytes) -> str:
    """The client's text with the stored secrets in place of their masks. Blocking."""
    # The YAML reader is slow to import and only needed where somebody sends a config.
    from llm_bridge.config import incoming

    try:
        stored = bridge.store.read().raw
    except ConfigInvalid:
        stored = bridge.store.current.raw
    return incoming.as_stored(data, stored)


async def _body(request: Request) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BYTES:
            raise TooLarge(limit=MAX_BYTES)
    return bytes(data)


async def _expected(bridge: Bridge, request: Request) -> str | None:
    """The revision that If-Match asks for (RFC 9110 13.1.1); None when it asks for nothing."""
    value = request.headers.get("if-match", "").strip()
    if not value or value == "*":
        return None
    offered = [item.strip().removeprefix("W/").strip('"') for item in value.split(",")]
    current = await asyncio.to_thread(bridge.store.disk_revision)
    return current if current in offered else offered[0]


def _changed(result: Result, response: Response, lang: Lang, said: tuple[str, str]) -> schemas.ChangeAnswer:
    response.headers[REVISION_HEADER] = f'"{result.revision}"'
    message, warning = said[lang == "en"], result.warning[lang == "en"] if result.warning else None
    if warning:
        but = ", but the local model does not run: " if lang == "en" else "が、ローカルモデルは動いていません: "
        message += but + warning
    return schemas.ChangeAnswer(
        message=message,
        warning=warning,
        applied=result.applied,
        removed=list(result.removed),
        revision=result.revision,
        seconds=round(result.seconds, 3),
    )
