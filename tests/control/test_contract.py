"""The users' contract, word for word: requests, answers, messages, statuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.control.scripted import World, world
from tests.support.asgi import Answer, send
from tests.support.tiny_gguf import write_tiny_gguf

EN = {"accept-language": "en"}
FORM = "provider_modelはプロバイダー/モデル名 の形式で指定してください（例: ollama/phi3, openai/gpt-4）"
FRAME = "エラーが発生しました（exit code: 1）\n出力:\npulling manifest... "


@pytest.fixture
def here(tmp_path: Path) -> World:
    made = world(tmp_path)
    write_tiny_gguf(tmp_path / "import" / "x.gguf", seed=3)
    return made


def stored(here: World, name: str) -> None:
    here.catalogue.import_file(Path("x.gguf"), here.home / "import", name)


async def manage(here: World, **body: object) -> Answer:
    return await send(here.app, "POST", "/models/manage", body)


async def test_adding_a_local_model_takes_the_previous_one_out(here: World) -> None:
    stored(here, "smollm2:135m")
    answer = await manage(here, model_name="smollm-tiny", provider_model="ollama/smollm2:135m", no_restart=False)
    assert answer.status == 200
    assert answer.json == {
        "message": "モデル smollm-tiny を追加しました",
        "status": "success",
        "operation": "追加",
        "is_ollama": True,
        "model_name": "smollm-tiny",
        "provider_model": "ollama/smollm2:135m",
        "applied": True,
        "removed": ["bridge-mini"],
        "revision": here.store.current.revision,
        "seconds": 0.25,
    }
    local = here.store.current.local
    assert local is not None
    assert local.name == "smollm-tiny"


async def test_switching_to_a_configured_model(here: World) -> None:
    answer = await manage(here, model_name="gpt-4o")
    assert answer.status == 200
    assert (answer.json["message"], answer.json["operation"]) == ("モデル gpt-4o に切り替えました", "切り替え")
    assert answer.json["is_ollama"] is False
    assert here.store.current.default == here.store.current.find("gpt-4o")


async def test_no_restart_writes_and_reload_applies(here: World) -> None:
    running = here.store.current
    answer = await manage(here, model_name="big", provider_model="ollama/not-downloaded-yet", no_restart=True)
    assert (answer.status, answer.json["applied"]) == (200, False)
    assert here.store.current is running
    assert here.store.read().find("big")
    models = {model["name"]: model for model in (await send(here.app, "GET", "/models")).json}
    assert (models["big"]["configured"], models["big"]["active"]) == (True, False)
    reloaded = await send(here.app, "POST", "/config/reload")
    assert reloaded.json["message"] == "設定を再読み込みしました"
    assert here.store.current.find("big")


async def test_a_provider_model_without_a_slash(here: World) -> None:
    for wrong in ("phi3", "", "/", "ollama/", "ollama/../x"):
        answer = await manage(here, model_name="a", provider_model=wrong)
        assert (answer.status, answer.detail) == (400, FORM)
    assert here.manager.calls == []


async def test_switching_to_an_unknown_name(here: World) -> None:
    answer = await manage(here, model_name="○○○")
    assert (answer.status, answer.detail) == (404, "モデル ○○○ は設定に存在しません")


async def test_a_model_that_is_not_downloaded_changes_nothing(here: World) -> None:
    before = here.store.path.read_bytes()
    answer = await manage(here, model_name="a", provider_model="ollama/phi3", no_restart=False)
    assert answer.status == 404
    assert answer.detail == FRAME + "モデル phi3 はダウンロードされていません\n"
    english = await send(here.app, "POST", "/models/manage", {"model_name": "a", "provider_model": "ollama/phi3"}, EN)
    assert english.detail.endswith("pulling manifest... model phi3 is not downloaded\n")
    assert here.store.path.read_bytes() == before
    assert here.manager.calls == []


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"background": True}])
async def test_downloads_say_honestly_that_they_are_to_come(here: World, more: dict[str, bool]) -> None:
    before = sorted(here.home.rglob("*"))
    answer = await send(here.app, "POST", "/models/download", {"model_path": "smollm2:135m", **more})
    assert answer.status == 501
    assert answer.detail.startswith(FRAME + "ダウンロードは次のリリース")
    assert "POST /models/import" in answer.detail
    assert sorted(here.home.rglob("*")) == before


async def test_a_model_that_is_here_is_downloaded_already(here: World) -> None:
    stored(here, "tiny")
    for name in ("bridge-mini", "tiny", "tiny:latest"):
        answer = await send(here.app, "POST", "/models/download", {"model_path": name})
        assert (answer.status, answer.json["message"]) == (200, "モデルのダウンロードが完了しました")
        assert name.partition(":")[0] in answer.json["log"]


async def test_the_list_of_models(here: World) -> None:
    stored(here, "spare")
    models = (await send(here.app, "GET", "/models", headers={"accept": "application/json"})).json
    assert [(m["name"], m["size"], m["type"], m["configured"]) for m in models] == [
        ("bridge-mini", "124 kB", "ollama", True),
        ("gpt-4o-mini", "N/A", "openai", True),
        ("gpt-4o", "N/A", "openai", True),
        ("spare", "124 kB", "ollama", False),
    ]
    assert [m["default"] for m in models] == [True, False, False, False]
    assert [m["active"] for m in models] == [True, True, True, False]
    assert models[0]["builtin"] and not models[3]["builtin"]
    here.manager.ready = False
    models = (await send(here.app, "GET", "/models")).json
    assert [m["active"] for m in models] == [False, True, True, False]


async def test_the_config_is_litellms_with_secrets_masked(here: World) -> None:
    here.store.adopt(
        here.store.replace_text(here.store.path.read_text() + "general_settings: {master_key: canary-key}\n")
    )
    answer = await send(here.app, "GET", "/config", headers={"accept": "application/json"})
    assert answer.json["model_list"][0] == {
        "model_name": "bridge-mini",
        "litellm_params": {"model": "ollama/bridge-mini"},
    }
    assert answer.json["model_list"][1]["litellm_params"]["api_key"] == "os.environ/OPENAI_API_KEY"
    assert answer.json["general_settings"] == {"master_key": "****"}
    assert "canary" not in answer.text
    assert answer.headers["etag"] == f'"{here.store.current.revision}"'


async def test_errors_of_the_framework_are_one_clear_line(here: World) -> None:
    cases = [
        ("POST", "/models/manage", {}, 422, "リクエストに誤りがあります: model_name は必須です"),
        (
            "POST",
            "/models/manage",
            {"model_name": 3},
            422,
            "リクエストに誤りがあります: model_name には文字列を指定してください",
        ),
        ("POST", "/models/manage", b"{", 422, "リクエストに誤りがあります: 本文が JSON として読めません"),
        ("POST", "/models/manage", None, 422, "リクエストに誤りがあります: 本文 は必須です"),
        ("POST", "/models/manage", b"[" * 200_000, 400, "リクエストの本文が読めません"),
        ("GET", "/nowhere", None, 404, "パス '/nowhere' は見つかりません"),
        ("POST", "/models", None, 405, "この操作は GET で呼び出してください"),
        ("PATCH", "/config", None, 405, "この操作は GET, PUT で呼び出してください"),
    ]
    for method, path, body, status, text in cases:
        answer = await send(here.app, method, path, body)
        assert (answer.status, answer.detail) == (status, text)
    english = await send(here.app, "POST", "/models/manage", {}, EN)
    assert english.detail == "The request is not valid: model_name is required"


async def test_an_unforeseen_error_tells_nothing_but_its_id(here: World) -> None:
    here.manager.error = RuntimeError("canary")
    answer = await manage(here, model_name="gpt-4o")
    assert answer.status == 500
    assert answer.detail.startswith("内部エラーが発生しました（リクエストID: ")
    assert "canary" not in answer.text


async def test_home(here: World) -> None:
    as_json = await send(here.app, "GET", "/", headers={"accept": "application/json"})
    assert as_json.json == {"message": "LLM-Bridge API is running"}
    page = await send(here.app, "GET", "/", headers={"accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    assert "LLM-Bridge API" in page.text
