"""The app over the real manager and the real engine."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
from fastapi import FastAPI

from llm_bridge.config.store import ConfigStore
from llm_bridge.control.app import Bridge, create_app
from llm_bridge.engines.llamacpp import LlamaCpp
from llm_bridge.models.manager import Manager
from llm_bridge.models.pool import Pool
from llm_bridge.settings import load
from llm_bridge.store.catalogue import Catalogue, builtin
from tests.support.asgi import send
from tests.support.tiny_gguf import write_corrupt, write_tiny_gguf


@contextlib.asynccontextmanager
async def running(home: Path) -> AsyncIterator[tuple[FastAPI, Pool]]:
    settings = load({"LLM_BRIDGE_HOME": str(home), "PATH": "/usr/bin:/bin"}, cwd=home)
    store = ConfigStore(settings.config_path, settings.home)
    config = store.open()
    pool = Pool(settings)
    pool.configure(config)
    catalogue = Catalogue(home / "models", builtin())
    manager = Manager(settings, store, catalogue, LlamaCpp(settings.environ, home), pool)
    await manager.start()
    try:
        yield create_app(Bridge(settings, manager, store, catalogue, time.time())), pool
    finally:
        await manager.close(0)
        await pool.close()


async def ready(app: FastAPI) -> None:
    for _ in range(600):
        if (await send(app, "GET", "/health/readiness")).status == 200:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("not ready after 30 s")


async def chat(pool: Pool, alias: str) -> str:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    async with pool.lease(alias) as route:
        sent = orjson.dumps({**body, "model": route.model})
        async with await route.upstream.send("POST", "/v1/chat/completions", sent) as response:
            answer = orjson.loads(await response.body(1 << 20))
    return str(answer["choices"][0]["message"]["content"])


async def test_import_add_switch_and_a_failing_model(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "import" / "tiny.gguf")
    write_corrupt(tmp_path / "import" / "broken.gguf")
    async with running(tmp_path) as (app, pool):
        await ready(app)
        assert await chat(pool, "bridge-mini")
        for name in ("tiny", "broken"):
            assert (await send(app, "POST", "/models/import", {"path": f"{name}.gguf", "name": name})).status == 200

        added = await send(app, "POST", "/models/manage", {"model_name": "mine", "provider_model": "ollama/tiny"})
        assert (added.status, added.json["removed"], added.json["is_ollama"]) == (200, ["bridge-mini"], True)
        assert await chat(pool, "mine")
        models = {model["name"]: model for model in (await send(app, "GET", "/models")).json}
        assert models["mine"]["active"]
        assert not models["bridge-mini"]["configured"]

        before = (await send(app, "GET", "/config")).headers["etag"]
        failed = await send(app, "POST", "/models/manage", {"model_name": "b", "provider_model": "ollama/broken"})
        assert failed.status == 503
        assert "ローカルエンジンを利用できません" in failed.detail
        assert (await send(app, "GET", "/config")).headers["etag"] == before
        assert await chat(pool, "mine")

        default = await send(app, "POST", "/models/manage", {"model_name": "gpt-4o"})
        assert default.json["message"] == "モデル gpt-4o に切り替えました"
        assert (await send(app, "GET", "/models")).json[0]["name"] == "gpt-4o"
        assert await chat(pool, "mine")
        status = (await send(app, "GET", "/status")).json
        assert (status["ready"], status["engine"]["state"]) == (True, "ready")
