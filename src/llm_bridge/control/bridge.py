"""What the management API needs of the running bridge, as narrow as it uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request

from llm_bridge.config.store import ConfigStore
from llm_bridge.errors import Lang, language
from llm_bridge.settings import Settings
from llm_bridge.store.catalogue import Catalogue


class Result(Protocol):
    """What an operation of the manager did (models.manager.Outcome)."""

    @property
    def operation(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def local(self) -> bool: ...
    @property
    def applied(self) -> bool: ...
    @property
    def revision(self) -> str: ...
    @property
    def removed(self) -> tuple[str, ...]: ...
    @property
    def seconds(self) -> float: ...
    @property
    def generation(self) -> int: ...
    @property
    def warning(self) -> tuple[str, str] | None: ...


class Manager(Protocol):
    """The one writer of models and config. Each operation goes on when its caller gives up."""

    @property
    def ready(self) -> bool: ...
    async def add(self, name: str, provider_model: str, *, apply: bool) -> Result: ...
    async def switch(self, name: str, *, apply: bool) -> Result: ...
    async def remove(self, name: str) -> Result: ...
    async def reload(self) -> Result: ...
    async def put_config(self, text: str, expect: str | None) -> Result: ...
    async def rollback(self, revision: str, expect: str | None) -> Result: ...
    def status(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Bridge:
    """`started_at` is seconds since the epoch."""

    settings: Settings
    manager: Manager
    store: ConfigStore
    catalogue: Catalogue
    started_at: float


def bridge_of(request: Request) -> Bridge:
    bridge: Bridge = request.app.state.bridge
    return bridge


def lang_of(request: Request) -> Lang:
    """The language of this request's texts."""
    return language(request.headers.get("accept-language", ""), bridge_of(request).settings.language)


TheBridge = Annotated[Bridge, Depends(bridge_of)]
TheLang = Annotated[Lang, Depends(lang_of)]
