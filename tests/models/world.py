"""A manager with everything real: config file, catalogue, engine processes. Models a, b and c are in the store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from llm_bridge.config.store import ConfigStore
from llm_bridge.engines.base import Engine, EngineSpec, RunningEngine
from llm_bridge.engines.llamacpp import LlamaCpp
from llm_bridge.models.manager import Manager
from llm_bridge.models.pool import Pool, Route
from llm_bridge.settings import Settings
from llm_bridge.store.catalogue import Catalogue
from llm_bridge.supervisor.backoff import Backoff
from tests.support.tiny_gguf import write_tiny_gguf

CONFIG = """\
model_list:
  - model_name: first
    litellm_params:
      model: ollama/bridge-mini
  - model_name: far  # an API model
    litellm_params:
      model: openai/gpt-far
      api_base: http://127.0.0.1:9/v1
      api_key: sk-far
"""


class Gate:
    """An engine whose starts can be held back, and that remembers what it started."""

    def __init__(self, inner: Engine) -> None:
        self._inner = inner
        self.open = asyncio.Event()
        self.open.set()
        self.entered = asyncio.Event()
        self.running: list[RunningEngine] = []
        self.starts = 0

    async def start(self, spec: EngineSpec) -> RunningEngine:
        self.starts += 1
        self.entered.set()
        await self.open.wait()
        engine = await self._inner.start(spec)
        self.running.append(engine)
        return engine

    def close(self) -> None:
        """Hold back the next start; `entered` tells when it has come."""
        self.open.clear()
        self.entered.clear()


@dataclass
class World:
    home: Path
    settings: Settings
    store: ConfigStore
    catalogue: Catalogue
    engine: Gate
    pool: Pool
    manager: Manager
    names: tuple[str, ...] = field(default=("a", "b", "c"))

    @property
    def config(self) -> str:
        return self.store.path.read_text(encoding="utf-8")

    def write(self, text: str) -> None:
        self.store.path.write_text(text, encoding="utf-8")

    def damage(self, name: str) -> None:
        """Make a stored model that has a good header fail to load: a key the engine needs gets another name."""
        model = self.catalogue.find(name)
        assert model is not None
        data = model.path.read_bytes()
        assert b"llama.attention.head_count" in data
        model.path.chmod(0o600)
        model.path.write_bytes(data.replace(b"llama.attention.head_count", b"llama.attention.head_counx", 1))

    async def until(self, phase: str) -> None:
        """Wait until the local engine is in `phase`; every change of it reaches the pool."""
        while self.manager.status()["engine"] != phase:
            await self.pool.changed(self.pool.deadline())

    async def ask(self, alias: str | None = None, **fields: Any) -> dict[str, Any]:
        """One chat completion through a lease."""
        async with self.pool.lease(alias) as route:
            return await chat(route, **fields)


def build(home: Path, engine: Engine | None = None, backoff: Backoff | None = None, **settings: Any) -> World:
    home.mkdir(parents=True, exist_ok=True)
    builtin = write_tiny_gguf(home / "bridge-mini.gguf", name="bridge-mini")
    values = Settings(home=home, **{"threads": 1, "parallel": 2, "environ": dict(os.environ), **settings})
    catalogue = Catalogue(home / "models", builtin)
    for name in ("a", "b", "c"):
        if catalogue.find(name) is None:
            write_tiny_gguf(values.imports / f"{name}.gguf", seed=ord(name), name=name)
            catalogue.import_file(Path(f"{name}.gguf"), values.imports, name)
    if not values.config_path.exists():
        values.config_path.write_text(CONFIG, encoding="utf-8")
    store = ConfigStore(values.config_path, home)
    gate = Gate(engine or LlamaCpp(values.environ, home))
    pool = Pool(values)
    return World(
        home, values, store, catalogue, gate, pool, Manager(values, store, catalogue, gate, pool, backoff=backoff)
    )


@asynccontextmanager
async def world(
    home: Path, engine: Engine | None = None, backoff: Backoff | None = None, **settings: Any
) -> AsyncIterator[World]:
    made = await asyncio.to_thread(build, home, engine, backoff, **settings)
    await made.manager.start()
    try:
        yield made
    finally:
        await made.manager.close(0)


async def chat(route: Route, **fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, **fields}
    async with await route.upstream.send("POST", "/v1/chat/completions", orjson.dumps(body)) as response:
        text = await response.body(1 << 20)
    assert response.status == 200, text
    answer: dict[str, Any] = orjson.loads(text)
    return answer
