"""/config over HTTP: masked out, restored in, revisions honoured."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.control.scripted import Done, World, world
from tests.support.asgi import send

SECRET = "sk-canary-0123456789abcdefWXYZ"
YAML = {"content-type": "application/yaml"}
TEXT = f"""\
# mine
model_list:
  - model_name: a # first
    litellm_params:
      model: openai/a
      api_key: {SECRET}
      extra_headers: {{X-Team: canary-team}}
other: {{kept: true}}
"""


@pytest.fixture
def here(tmp_path: Path) -> World:
    made = world(tmp_path)
    made.store.adopt(made.store.replace_text(TEXT))
    return made


async def test_json_that_comes_back_masked_keeps_the_secrets(here: World) -> None:
    shown = await send(here.app, "GET", "/config")
    assert "canary" not in shown.text
    assert shown.json["model_list"][0]["litellm_params"]["api_key"] == "****WXYZ"
    document = shown.json
    document["model_list"][0]["litellm_params"]["rpm"] = 7
    answer = await send(here.app, "PUT", "/config", document, {"if-match": shown.headers["etag"]})
    assert answer.status == 200
    assert answer.headers["etag"] == f'"{here.store.disk_revision()}"'
    params = here.store.current.raw["model_list"][0]["litellm_params"]
    assert (params["api_key"], params["rpm"]) == (SECRET, 7)
    assert params["extra_headers"] == {"X-Team": "canary-team"}
    assert here.store.current.raw["other"] == {"kept": True}


async def test_the_master_key_is_masked(here: World) -> None:
    text = TEXT + f"general_settings:\n  master_key: {SECRET}\n"
    assert (await send(here.app, "PUT", "/config", text.encode(), YAML)).status == 200
    assert here.store.current.master_key == SECRET
    shown = await send(here.app, "GET", "/config")
    assert "canary" not in shown.text
    assert shown.json["general_settings"] == {"master_key": "****WXYZ"}
    assert (await send(here.app, "PUT", "/config", shown.json)).status == 200
    assert here.store.current.master_key == SECRET


async def test_what_has_no_effect_yet_is_said(here: World) -> None:
    checked = await send(here.app, "POST", "/config/validate", TEXT.encode(), YAML)
    assert checked.json["unapplied"] == ["litellm_params.extra_headers"]
    assert (await send(here.app, "GET", "/status")).json["config"]["unapplied"] == ["litellm_params.extra_headers"]


async def test_an_applied_config_without_its_local_model_is_a_success_with_a_warning(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Done("再読み込み", "", local=False, applied=True, revision="r", warning=("原因", "the cause"))

    async def reload() -> Done:
        return done

    monkeypatch.setattr(here.manager, "reload", reload)
    answer = await send(here.app, "POST", "/config/reload")
    assert (answer.status, answer.json["warning"]) == (200, "原因")
    assert answer.json["message"] == "設定を再読み込みしましたが、ローカルモデルは動いていません: 原因"
    english = await send(here.app, "POST", "/config/reload", headers={"accept-language": "en"})
    assert english.json["message"].endswith("reloaded, but the local model does not run: the cause")


async def test_yaml_keeps_its_comments(here: World) -> None:
    text = TEXT.replace(SECRET, '"****WXYZ"').replace("canary-team", '"****"').replace("# mine", "# ours")
    answer = await send(here.app, "PUT", "/config", text.encode(), YAML)
    assert answer.status == 200
    assert here.store.path.read_text() == TEXT.replace("# mine", "# ours")


async def test_a_stale_revision_is_412(here: World) -> None:
    for path, method, body in (("/config", "PUT", TEXT.encode()), ("/config/rollback", "POST", {"revision": "x"})):
        answer = await send(here.app, method, path, body, {"if-match": '"0000000000000000"'})
        assert answer.status == 412
        assert here.store.disk_revision() in answer.detail
    for header in ("*", f'"x", W/"{here.store.disk_revision()}"'):
        assert (await send(here.app, "PUT", "/config", TEXT.encode(), {**YAML, "if-match": header})).status == 200


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"model_list: [", "読めません"),
        (b"\xff", "UTF-8"),
        (b"a: &x [*x]", "アンカー"),
        (b"", "キー: 値"),
        (b"model_list: []", "model_list"),
        (TEXT.replace(SECRET, '"****none"').encode(), "model_list.0.litellm_params.api_key"),
    ],
)
async def test_a_bad_config_is_refused_whole(here: World, body: bytes, why: str) -> None:
    for method, path in (("PUT", "/config"), ("POST", "/config/validate")):
        answer = await send(here.app, method, path, body, YAML)
        assert answer.status == 422
        assert why in answer.detail
    assert here.store.path.read_text() == TEXT


async def test_too_large_is_413(here: World) -> None:
    assert (await send(here.app, "PUT", "/config", b"#" * (2 << 20), YAML)).status == 413


async def test_validate_tells_what_it_would_mean_and_writes_nothing(here: World) -> None:
    answer = await send(here.app, "POST", "/config/validate", TEXT.replace("openai/a", "groq/b").encode(), YAML)
    assert (answer.status, answer.json["models"], answer.json["valid"]) == (200, ["a"], True)
    assert here.store.path.read_text() == TEXT


async def test_history_and_rollback(here: World) -> None:
    history = (await send(here.app, "GET", "/config/history")).json
    assert [item["current"] for item in history] == [True, False]
    answer = await send(here.app, "POST", "/config/rollback", {"revision": history[1]["revision"]})
    assert answer.status == 200
    assert here.store.current.find("bridge-mini")
    assert (await send(here.app, "POST", "/config/rollback", {"revision": "nope"})).status == 404


async def test_while_the_file_has_a_mistake_the_running_config_is_shown(here: World) -> None:
    here.store.path.write_text("model_list: [\n")
    shown = await send(here.app, "GET", "/config")
    assert (shown.status, shown.json["other"]) == (200, {"kept": True})
    assert shown.headers["etag"] == f'"{here.store.disk_revision()}"'
    repaired = await send(here.app, "PUT", "/config", shown.json, {"if-match": shown.headers["etag"]})
    assert repaired.status == 200
    assert here.store.current.raw["model_list"][0]["litellm_params"]["api_key"] == SECRET
