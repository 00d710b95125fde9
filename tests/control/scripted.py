"""A manager that edits the config like the real one and runs no engine; and an app around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from llm_bridge.config.edit import Editor
from llm_bridge.config.schema import LOCAL_PROVIDERS, Config
from llm_bridge.config.store import ConfigStore
from llm_bridge.control.app import Bridge, create_app
from llm_bridge.errors import ModelNotConfigured
from llm_bridge.models.change import edited, rolled_back
from llm_bridge.settings import Settings
from llm_bridge.store.catalogue import Catalogue
from tests.support.tiny_gguf import write_tiny_gguf


@dataclass(frozen=True)
class Done:
    operation: str
    name: str
    local: bool
    applied: bool
    revision: str
    removed: tuple[str, ...] = ()
    seconds: float = 0.25
    generation: int = 1
    warning: tuple[str, str] | None = None


@dataclass
class ScriptedManager:
    store: ConfigStore
    ready: bool = True
    error: Exception | None = None
    """Raised by the next operation."""
    calls: list[str] = field(default_factory=list)

    async def add(self, name: str, provider_model: str, *, apply: bool) -> Done:
        local = provider_model.partition("/")[0] in LOCAL_PROVIDERS
        return self._edit("追加", name, lambda edit: edit.put_model(name, provider_model, first=local), apply=apply)

    async def switch(self, name: str, *, apply: bool) -> Done:
        def change(edit: Editor) -> None:
            if not edit.move_first(name):
                raise ModelNotConfigured(model=name)

        return self._edit("切り替え", name, change, apply=apply)

    async def remove(self, name: str) -> Done:
        return self._edit("削除", name, lambda edit: edit.remove_model(name), apply=True)

    async def reload(self) -> Done:
        return self._done("再読み込み", "", self.store.read(), frozenset(), apply=True)

    async def put_config(self, text: str, expect: str | None) -> Done:
        return self._done("再読み込み", "", self.store.replace_text(text, expect), frozenset(), apply=True)

    async def rollback(self, revision: str, expect: str | None) -> Done:
        written = rolled_back(self.store, revision, expect).write(self.store)
        return self._done("再読み込み", "", written, frozenset(), apply=True)

    def status(self) -> Mapping[str, Any]:
        return {"engine": "ready", "pid": 4711, "in_flight": 2, "last_error": {"ja": "原因", "en": "cause"}}

    def _edit(self, operation: str, name: str, change: Callable[[Editor], object], *, apply: bool) -> Done:
        before = frozenset(entry.name for entry in self.store.read().models)

        def edit(editor: Editor) -> None:
            change(editor)

        return self._done(operation, name, edited(self.store, edit).write(self.store), before, apply=apply)

    def _done(self, operation: str, name: str, config: Config, before: frozenset[str], *, apply: bool) -> Done:
        self.calls.append(operation)
        if self.error:
            raise self.error
        if apply:
            self.store.adopt(config)
        entry = config.find(name)
        removed = tuple(sorted(before - {known.name for known in config.models}))
        return Done(operation, name, entry is not None and entry.local, apply, config.revision, removed)


@dataclass
class World:
    app: FastAPI
    home: Path
    store: ConfigStore
    manager: ScriptedManager
    catalogue: Catalogue


def world(home: Path, **settings: Any) -> World:
    """A first start in `home`, with a tiny model in place of the built-in one."""
    store = ConfigStore(home / "config.yaml", home)
    store.open()
    catalogue = Catalogue(home / "models", write_tiny_gguf(home / "package" / "bridge-mini.gguf"))
    manager = ScriptedManager(store)
    (home / "import").mkdir()
    bridge = Bridge(replace(Settings(home=home), **settings), manager, store, catalogue, time.time())
    return World(create_app(bridge), home, store, manager, catalogue)
