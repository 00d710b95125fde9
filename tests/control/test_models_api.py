"""Importing, showing and deleting models over HTTP; status and health."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_bridge.control import human
from tests.control.scripted import Done, World, world
from tests.support.asgi import send
from tests.support.tiny_gguf import write_not_gguf, write_tiny_gguf


@pytest.fixture
def here(tmp_path: Path) -> World:
    made = world(tmp_path)
    write_tiny_gguf(tmp_path / "import" / "X-1.gguf", seed=3)
    return made


async def test_import_then_manage_then_delete(here: World) -> None:
    answer = await send(here.app, "POST", "/models/import", {"path": "X-1.gguf", "name": "tiny"})
    assert answer.status == 200
    assert (answer.json["model_name"], answer.json["provider_model"]) == ("tiny", "ollama/tiny")
    managed = await send(here.app, "POST", "/models/manage", {"model_name": "t", "provider_model": "ollama/tiny"})
    assert managed.json["removed"] == ["bridge-mini"]
    refused = await send(here.app, "DELETE", "/models/tiny")
    assert (refused.status, refused.detail) == (409, "tiny は設定のモデル t が使っています")
    gone = await send(here.app, "DELETE", "/models/t?files=true")
    assert (gone.status, gone.json["operation"]) == (200, "削除")
    assert here.catalogue.find("tiny") is None
    assert (await send(here.app, "DELETE", "/models/t")).status == 404
    assert (await send(here.app, "DELETE", "/models/bridge-mini")).status == 409


async def test_files_that_came_into_use_meanwhile_are_kept(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody configures the model under another name between its removal and the deletion of its files."""
    await send(here.app, "POST", "/models/import", {"path": "X-1.gguf", "name": "tiny"})
    await send(here.app, "POST", "/models/manage", {"model_name": "t", "provider_model": "ollama/tiny"})
    remove = here.manager.remove

    async def remove_and_lose_the_race(name: str) -> Done:
        done = await remove(name)
        await here.manager.add("again", "ollama/tiny:latest", apply=False)
        return done

    monkeypatch.setattr(here.manager, "remove", remove_and_lose_the_race)
    gone = await send(here.app, "DELETE", "/models/t?files=true")
    assert (gone.status, gone.json["removed"]) == (200, ["t"])
    assert "ファイルはモデル again が使っているため残しました" in gone.json["message"]
    assert here.catalogue.find("tiny") is not None


async def test_a_stored_model_is_deleted_by_its_own_name(here: World) -> None:
    await send(here.app, "POST", "/models/import", {"path": "X-1.gguf"})
    assert (await send(here.app, "GET", "/models/x-1")).json["configured"] is False
    assert (await send(here.app, "DELETE", "/models/x-1")).status == 200
    assert (await send(here.app, "GET", "/models/x-1")).detail == "モデル x-1 は設定に存在しません"


async def test_imports_are_refused_with_their_cause(here: World) -> None:
    write_not_gguf(here.home / "import" / "bad.gguf")
    for body, status, text in (
        ({"path": "bad.gguf", "name": "b"}, 422, "Repository is not GGUF or is not compatible with llama.cpp"),
        ({"path": "../config.yaml", "name": "b"}, 400, "の中の .gguf ファイルだけです"),
        ({"path": "absent.gguf", "name": "b"}, 404, "absent.gguf"),
        ({"path": "X-1.gguf", "name": "../b"}, 400, "モデル名"),
        ({"path": "X-1.gguf", "name": "bridge-mini"}, 409, "組み込み"),
        ({"path": ""}, 422, "path が空です"),
    ):
        answer = await send(here.app, "POST", "/models/import", body)
        assert (answer.status, text in answer.detail) == (status, True), answer.detail


async def test_names_with_slashes_and_colons(here: World) -> None:
    body = {"model_name": "org/model:v1", "provider_model": "openrouter/org/model:v1"}
    assert (await send(here.app, "POST", "/models/manage", body)).status == 200
    shown = await send(here.app, "GET", "/models/org/model:v1")
    assert shown.json["provider_model"] == "openrouter/org/model:v1"
    assert (await send(here.app, "DELETE", "/models/org/model:v1")).status == 200


async def test_status_and_health(here: World) -> None:
    status = (await send(here.app, "GET", "/status", headers={"accept-language": "en"})).json
    assert status["ready"] is True
    assert status["active"] == {"name": "bridge-mini", "provider_model": "ollama/bridge-mini", "in_flight": 2}
    assert (status["engine"]["state"], status["engine"]["pid"], status["engine"]["reason"]) == ("ready", 4711, "cause")
    assert status["config"]["unapplied"] == []
    assert status["config"]["revision"] == status["config"]["on_disk"] == here.store.current.revision
    assert (await send(here.app, "GET", "/health/readiness")).status == 200
    here.manager.ready = False
    assert (await send(here.app, "GET", "/health/readiness")).status == 503
    assert (await send(here.app, "GET", "/health")).json == {"status": "ok"}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "N/A"),
        (0, "0 B"),
        (999, "999 B"),
        (123_584, "124 kB"),
        (999_600, "1.0 MB"),
        (5_100_000, "5.1 MB"),
        (271_000_000, "271 MB"),
        (1_800_000_000, "1.8 GB"),
        (41_000_000_000, "41.0 GB"),
    ],
)
def test_sizes(count: int | None, text: str) -> None:
    assert human.size(count) == text
