"""/models: what there is, adding and switching, importing, deleting."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from fastapi import Query

from llm_bridge.config import mask, schema
from llm_bridge.config.schema import Config, ModelEntry
from llm_bridge.control import human, schemas
from llm_bridge.control.bridge import Bridge, Result, TheBridge, TheLang
from llm_bridge.errors import BadRequest, ConfigInvalid, DownloadFailed, Lang, ModelNotConfigured, Refused
from llm_bridge.store import names
from llm_bridge.store.catalogue import LocalModel

_NOT_YET = (
    "ダウンロードは次のリリースで使えるようになります。それまでは .gguf ファイルを POST /models/import で取り込むか、"
    "APIモデルを provider_model に指定してください",
    "downloads arrive with the next release; until then import a .gguf file with POST /models/import, "
    "or name an API model as provider_model",
)


async def list_models(bridge: TheBridge) -> list[schemas.Model]:
    return await asyncio.to_thread(_models, bridge, bridge.manager.ready)


async def get_model(bridge: TheBridge, name: str) -> schemas.Model:
    found = _named(await list_models(bridge), name)
    if found is None:
        raise ModelNotConfigured(model=name)
    return found


async def manage_model(bridge: TheBridge, lang: TheLang, body: schemas.ManageRequest) -> schemas.ManageAnswer:
    problem = schema.name_problem(body.model_name)
    if problem:
        raise BadRequest(ja=problem[0], en=problem[1], param="model_name")
    apply = not body.no_restart
    if body.provider_model is None:
        result = await bridge.manager.switch(body.model_name, apply=apply)
        return await _managed(bridge, result, _switched(result.name, lang))
    provider, model = schema.split_provider_model(body.provider_model)
    if provider in schema.LOCAL_PROVIDERS and apply and await asyncio.to_thread(bridge.catalogue.find, model) is None:
        raise DownloadFailed((f"モデル {model} はダウンロードされていません", f"model {model} is not downloaded"), 404)
    result = await bridge.manager.add(body.model_name, body.provider_model, apply=apply)
    return await _managed(
        bridge, result, _said(lang, f"モデル {result.name} を追加しました", f"Model {result.name} was added")
    )


async def download_model(bridge: TheBridge, lang: TheLang, body: schemas.DownloadRequest) -> schemas.DownloadAnswer:
    names.parse(body.model_path)
    found = await asyncio.to_thread(bridge.catalogue.find, body.model_path)
    if found is None or body.stream or body.background:
        raise DownloadFailed(_NOT_YET, 501)
    here = _said(lang, "すでにあります", "is here already")
    return schemas.DownloadAnswer(
        message=_said(lang, "モデルのダウンロードが完了しました", "The model's download is complete"),
        log=f"{found.name} ({human.size(found.size)}): {here}\nsuccess",
    )


async def import_model(bridge: TheBridge, lang: TheLang, body: schemas.ImportRequest) -> schemas.ImportAnswer:
    source = Path(body.path)
    name = body.name or source.name.removesuffix(".gguf").lower()
    model = await asyncio.to_thread(bridge.catalogue.import_file, source, bridge.settings.imports, name)
    return schemas.ImportAnswer(
        message=_said(lang, f"モデル {model.name} を取り込みました", f"Model {model.name} was imported"),
        model_name=model.name,
        provider_model=f"ollama/{model.name}",
        size=human.size(model.size),
        digest=model.digest,
    )


async def delete_model(
    bridge: TheBridge,
    lang: TheLang,
    name: str,
    files: Annotated[bool, Query(description="ローカルのファイルも削除する / delete the local file too")] = False,
) -> schemas.ManageAnswer:
    entry = await asyncio.to_thread(lambda: _on_disk(bridge).find(name))
    if entry is None:
        return await _delete_file(bridge, lang, name)
    result = await bridge.manager.remove(name)
    said = _said(lang, f"モデル {name} を設定から削除しました", f"Model {name} was removed from the config")
    stored = await asyncio.to_thread(bridge.catalogue.find, entry.model) if entry.local and files else None
    if stored is not None and not stored.builtin:
        user = await asyncio.to_thread(_delete_unused, bridge, entry.model)
        if user is not None:  # configured again meanwhile; what was asked of the config is done all the same
            said += _said(
                lang, f"。ファイルはモデル {user} が使っているため残しました", f"; its file stays, model {user} uses it"
            )
    return await _managed(bridge, result, said)


async def _delete_file(bridge: Bridge, lang: Lang, name: str) -> schemas.ManageAnswer:
    """A model that is only stored: its files go."""
    if await asyncio.to_thread(bridge.catalogue.find, name) is None:
        raise ModelNotConfigured(model=name)
    user = await asyncio.to_thread(_delete_unused, bridge, name)
    if user is not None:
        raise Refused(
            ja=f"{name} は設定のモデル {user} が使っています", en=f"{name} is in use by the configured model {user}"
        )
    return schemas.ManageAnswer(
        message=_said(lang, f"モデル {name} のファイルを削除しました", f"The files of model {name} were deleted"),
        operation="削除",
        is_ollama=True,
        model_name=name,
        provider_model=f"ollama/{name}",
        applied=True,
        removed=[],
        revision=await asyncio.to_thread(bridge.store.disk_revision),
        seconds=0.0,
    )


def _delete_unused(bridge: Bridge, name: str) -> str | None:
    """Delete the files of the stored model `name`, unless a configured model, on disk or running, uses them: returns
    that one's name instead. Blocking, and both in one go, so that next to nothing can come between."""
    wanted = names.parse(name).short
    for entry in (*_on_disk(bridge).models, *bridge.store.current.models):
        if entry.local and _local_name(entry) == wanted:
            return entry.name
    bridge.catalogue.delete(name)
    return None


async def _managed(bridge: Bridge, result: Result, message: str) -> schemas.ManageAnswer:
    config = await asyncio.to_thread(_on_disk, bridge)
    entry = config.find(result.name)
    return schemas.ManageAnswer(
        message=message,
        operation=result.operation,  # type: ignore[arg-type]
        is_ollama=result.local,
        model_name=result.name,
        provider_model=entry.provider_model if entry else None,
        applied=result.applied,
        removed=list(result.removed),
        revision=result.revision,
        seconds=round(result.seconds, 3),
    )


def _switched(name: str, lang: Lang) -> str:
    return _said(lang, f"モデル {name} に切り替えました", f"Switched to model {name}")


def _said(lang: Lang, ja: str, en: str) -> str:
    return en if lang == "en" else ja


def _on_disk(bridge: Bridge) -> Config:
    """What the file says now; while it has a mistake, what runs."""
    try:
        return bridge.store.read()
    except ConfigInvalid:
        return bridge.store.current


def _models(bridge: Bridge, serving: bool) -> list[schemas.Model]:
    """The configured models in the config's order, then the stored ones that no entry uses. Blocking.

    `serving`: the local engine answers.
    """
    config, running = _on_disk(bridge), bridge.store.current
    stored = {model.name: model for model in bridge.catalogue.list()}
    found: list[schemas.Model] = []
    for index, entry in enumerate(config.models):
        same = running.find(entry.name)
        active = same is not None and same.provider_model == entry.provider_model and (serving or not entry.local)
        local = stored.pop(_local_name(entry), None) if entry.local else None
        found.append(_configured(entry, local, active=active, default=index == 0))
    return found + [_unconfigured(model) for model in stored.values()]


def _configured(entry: ModelEntry, local: LocalModel | None, *, active: bool, default: bool) -> schemas.Model:
    return schemas.Model(
        name=entry.name,
        size=human.size(local.size if local else None),
        type=entry.provider,
        configured=True,
        active=active,
        default=default,
        provider_model=entry.provider_model,
        size_bytes=local.size if local else None,
        builtin=local is not None and local.builtin,
        stored=local is not None,
        api_base=mask.masked({"api_base": entry.api_base})["api_base"],
    )


def _unconfigured(model: LocalModel) -> schemas.Model:
    return schemas.Model(
        name=model.name,
        size=human.size(model.size),
        type="ollama",
        configured=False,
        active=False,
        default=False,
        provider_model=f"ollama/{model.name}",
        size_bytes=model.size,
        builtin=model.builtin,
        stored=True,
        api_base=None,
    )


def _local_name(entry: ModelEntry) -> str:
    """The name the catalogue lists the entry's file under."""
    try:
        return names.parse(entry.model).short
    except BadRequest:
        return ""


def _named(models: Iterable[schemas.Model], name: str) -> schemas.Model | None:
    return next((model for model in models if model.name == name), None)
