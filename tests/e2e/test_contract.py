"""The users' own lines against a fresh start: texts, statuses and shapes are exact."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bridge import ROOT, Bridge, call, running, until
from tests.support.tiny_gguf import write_tiny_gguf


def test_a_fresh_start_has_the_builtin_model_and_two_api_models(bridge: Bridge) -> None:
    listed = call(f"{bridge.admin}/models", headers={"accept": "application/json"}).json
    assert [(m["name"], m["type"], m["configured"]) for m in listed] == [
        ("bridge-mini", "ollama", True),
        ("gpt-4o-mini", "openai", True),
        ("gpt-4o", "openai", True),
    ]
    assert [m["size"] for m in listed[1:]] == ["N/A", "N/A"]
    assert listed[0]["size"].endswith("B")
    config = call(f"{bridge.admin}/config").json
    assert config["model_list"][0] == {"model_name": "bridge-mini", "litellm_params": {"model": "ollama/bridge-mini"}}
    assert config["model_list"][1]["litellm_params"]["api_key"] == "os.environ/OPENAI_API_KEY"


def test_the_home_page_answers_as_the_users_know_it(bridge: Bridge) -> None:
    home = call(f"{bridge.admin}/", headers={"accept": "application/json"})
    assert home.json == {"message": "LLM-Bridge API is running"}


@pytest.mark.parametrize(
    ("path", "body", "status", "detail"),
    [
        (
            "/models/manage",
            {"model_name": "m", "provider_model": "smollm2"},
            400,
            "provider_modelはプロバイダー/モデル名 の形式で指定してください（例: ollama/phi3, openai/gpt-4）",
        ),
        ("/models/manage", {"model_name": "存在しない"}, 404, "モデル 存在しない は設定に存在しません"),
    ],
)
def test_the_users_error_texts(bridge: Bridge, path: str, body: object, status: int, detail: str) -> None:
    before = call(f"{bridge.admin}/config").body
    reply = call(f"{bridge.admin}{path}", body)
    assert (reply.status, reply.json) == (status, {"detail": detail})
    assert call(f"{bridge.admin}/config").body == before


def test_a_download_that_is_not_there_yet_says_so_in_the_users_frame(bridge: Bridge) -> None:
    reply = call(f"{bridge.admin}/models/download", {"model_path": "smollm2:135m"})
    assert reply.status == 501
    assert reply.json["detail"].startswith("エラーが発生しました（exit code: 1）\n出力:\npulling manifest... ")
    done = call(f"{bridge.admin}/models/download", {"model_path": "bridge-mini"})
    assert done.status == 200
    assert done.json["message"] == "モデルのダウンロードが完了しました"
    assert isinstance(done.json["log"], str)


def test_a_missing_provider_key_names_the_variable(bridge: Bridge) -> None:
    reply = bridge.chat("hello", model="gpt-4o-mini")
    assert reply.status == 401
    assert "OPENAI_API_KEY" in reply.json["error"]["message"]


def test_add_switch_and_remove_with_one_local_model(tmp_path: Path) -> None:
    with running(tmp_path) as bridge:
        imports = bridge.home / "import"
        write_tiny_gguf(imports / "tiny.gguf", name="tiny")
        imported = call(f"{bridge.admin}/models/import", {"path": "tiny.gguf", "name": "tiny"})
        assert imported.status in (200, 201), imported.body
        added = call(
            f"{bridge.admin}/models/manage",
            {"model_name": "smollm-tiny", "provider_model": "ollama/tiny", "no_restart": False},
        )
        assert added.status == 200, added.body
        assert added.json["message"] == "モデル smollm-tiny を追加しました"
        assert (added.json["status"], added.json["operation"], added.json["is_ollama"]) == ("success", "追加", True)
        assert bridge.chat("hi", model="smollm-tiny", max_tokens=4).status == 200
        gone = bridge.chat("hi", model="bridge-mini")
        assert (gone.status, gone.json["error"]["code"]) == (404, "model_not_found")
        names = [m["model_name"] for m in call(f"{bridge.admin}/config").json["model_list"]]
        assert "bridge-mini" not in names
        switched = call(f"{bridge.admin}/models/manage", {"model_name": "gpt-4o"})
        assert switched.json["message"] == "モデル gpt-4o に切り替えました"
        assert (switched.json["operation"], switched.json["is_ollama"]) == ("切り替え", False)
        assert call(f"{bridge.gateway}/v1/models").json["data"][0]["id"] == "gpt-4o"


def test_no_restart_writes_and_reload_applies(tmp_path: Path) -> None:
    with running(tmp_path) as bridge:
        call(
            f"{bridge.admin}/models/manage",
            {"model_name": "later", "provider_model": "openai/gpt-4.1", "no_restart": True},
        )
        served = [m["id"] for m in call(f"{bridge.gateway}/v1/models").json["data"]]
        assert "later" not in served
        assert "later" in (bridge.home / "config.yaml").read_text()
        assert call(f"{bridge.admin}/config/reload", method="POST").status == 200
        assert "later" in [m["id"] for m in call(f"{bridge.gateway}/v1/models").json["data"]]


def test_a_file_edited_by_hand_is_applied_and_a_broken_one_is_not(tmp_path: Path) -> None:
    with running(tmp_path) as bridge:
        path = bridge.home / "config.yaml"
        text = path.read_text()
        path.write_text(text.replace("model_name: gpt-4o\n", "model_name: by-hand\n"))
        until(lambda: "by-hand" in call(f"{bridge.gateway}/v1/models").body.decode(), "the edit is applied")
        path.write_text("model_list: [")
        assert call(f"{bridge.admin}/config/reload", method="POST").status == 422
        assert bridge.chat("hi", max_tokens=2).status == 200


def test_run_llm_prints_an_answer(bridge: Bridge) -> None:
    prompt = ("--prompt", "こんにちは、自己紹介してください")
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_llm.py"), "--url", bridge.gateway, "--model", "bridge-mini", *prompt],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONUTF8": "1"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "bridge-mini" in done.stdout
    assert "llm-bridge" in done.stdout


def test_the_users_curl_lines_work_verbatim(bridge: Bridge) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("LOUD: no curl on this machine; the same requests are made by the other tests here")
    body = '{"model": "bridge-mini", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}'
    typed = ("-H", "Content-Type: application/json", "-d")
    lines = (
        ("-X", "GET", f"{bridge.admin}/models", "-H", "accept: application/json"),
        ("-X", "GET", f"{bridge.admin}/config", "-H", "accept: application/json"),
        ("-X", "POST", f"{bridge.admin}/models/download", *typed, '{"model_path": "bridge-mini"}'),
        ("-X", "POST", f"{bridge.gateway}/v1/chat/completions", *typed, body),
    )
    for line in lines:
        done = subprocess.run([curl, "-sS", "--noproxy", "*", "-f", *line], capture_output=True, timeout=60)
        assert done.returncode == 0, (line, done.stderr, done.stdout)
