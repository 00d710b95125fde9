"""`status`, `ls`, `use`, `import`, `version` and every exit code."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.program import COMMAND, Program
from tests.cli.scripted import STREAM_HEAD, answer, closed_port

STATUS = {
    "version": "0.1.0",
    "uptime_s": 3725.4,
    "gateway": "127.0.0.1:8000",
    "admin": "127.0.0.1:9999",
    "ready": True,
    "active": {"name": "bridge-mini", "provider_model": "ollama/bridge-mini", "generation": 1, "in_flight": 2},
    "engine": {"kind": "embedded", "state": "ready", "pid": 123, "reason": None},
    "config": {"path": "/x/config.yaml", "revision": "0123456789abcdef", "warning": None},
}
MODELS = [
    {"name": "bridge-mini", "size": "5.2 MB", "type": "ollama", "configured": True, "active": True, "default": True},
    {"name": "日本語のモデル", "size": "1.8 GB", "type": "ollama", "configured": False},
    {"name": "gpt-4o-mini", "size": "N/A", "type": "openai", "configured": True},
]


def test_status(cli: Program) -> None:
    cli.admin.reply["GET", "/status"] = answer(200, STATUS)
    done = cli("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "稼働中",
        "llm-bridge    0.1.0 1h 2m",
        "ゲートウェイ  http://127.0.0.1:8000",
        "管理API       http://127.0.0.1:9999",
        "モデル        bridge-mini (ollama/bridge-mini) 処理中 2",
        "エンジン      embedded: ready (pid 123)",
        "設定          /x/config.yaml (0123456789abcdef)",
    ]
    assert json.loads(cli("status", "--json").stdout) == STATUS


@pytest.mark.parametrize("document", [{}, {"active": None, "engine": None, "config": None}, []])
def test_status_with_absent_keys(cli: Program, document: dict[str, object]) -> None:
    cli.admin.reply["GET", "/status"] = answer(200, document)
    done = cli("status", LLM_BRIDGE_LANG="en")
    assert (done.returncode, done.stderr) == (0, "")
    assert "none (choose one" in done.stdout


def test_status_says_not_ready_and_why(cli: Program) -> None:
    failed = STATUS | {"ready": False, "engine": {"kind": "embedded", "state": "failed", "reason": "out of memory"}}
    cli.admin.reply["GET", "/status"] = answer(200, failed)
    done = cli("status")
    assert done.returncode == 1
    assert "準備中" in done.stdout and "embedded: failed out of memory" in done.stdout


def test_ls_lines_up_wide_characters(cli: Program) -> None:
    cli.admin.reply["GET", "/models"] = answer(200, list(MODELS))
    done = cli("ls")
    assert done.stdout.splitlines() == [
        "名前            種類    サイズ  設定済み  状態",
        "bridge-mini     ollama  5.2 MB  はい      使用可 既定",
        "日本語のモデル  ollama  1.8 GB  -",
        "gpt-4o-mini     openai  N/A     はい",
    ]
    assert json.loads(cli("ls", "--json").stdout) == MODELS


def test_ls_shows_no_control_characters(cli: Program) -> None:
    cli.admin.reply["GET", "/models"] = answer(200, [{"name": "a\x1b]0;x\x07\nb", "size": "1", "type": "ollama"}])
    assert "\x1b" not in cli("ls").stdout
    assert len(cli("ls").stdout.splitlines()) == 2


def test_use_switches_and_adds(cli: Program) -> None:
    cli.admin.reply["POST", "/models/manage"] = answer(
        200, {"message": "モデル tiny に切り替えました", "status": "success"}
    )
    assert cli("use", "tiny").stdout == "モデル tiny に切り替えました\n"
    assert cli("use", "tiny", "ollama/tiny", "--no-restart").returncode == 0
    assert [request.json for request in cli.admin.requests] == [
        {"model_name": "tiny", "no_restart": False},
        {"model_name": "tiny", "no_restart": True, "provider_model": "ollama/tiny"},
    ]


def test_use_names_what_it_took_out(cli: Program) -> None:
    cli.admin.reply["POST", "/models/manage"] = answer(200, {"message": "追加しました", "removed": ["bridge-mini"]})
    assert cli("use", "tiny", "ollama/tiny").stdout == "追加しました\n設定から外れたモデル: bridge-mini\n"
    assert json.loads(cli("use", "tiny", "ollama/tiny", "--json").stdout)["removed"] == ["bridge-mini"]


def test_import_says_what_to_type_next(cli: Program) -> None:
    (cli.home / "import").mkdir()
    (cli.home / "import" / "tiny.gguf").write_bytes(b"GGUF")
    (cli.home / "other.gguf").write_bytes(b"GGUF")
    done = {"message": "取り込みました", "model_name": "tiny", "provider_model": "ollama/tiny"}
    cli.admin.reply["POST", "/models/import"] = answer(200, dict(done))
    for args in (("import/tiny.gguf", "--name", "tiny"), ("tiny.gguf",), ("other.gguf",)):
        assert cli("import", *args).stdout == "取り込みました\nllm-bridge use tiny ollama/tiny\n"
    asked = [request.json for request in cli.admin.requests]
    other = str(cli.home / "other.gguf")  # outside the folder: the service says so
    assert asked == [{"path": "tiny.gguf", "name": "tiny"}, {"path": "tiny.gguf"}, {"path": other}]
    missing = cli("import", "nope.gguf")
    assert (missing.returncode, missing.stdout) == (4, "")


def test_keys_language_and_host_go_along(cli: Program) -> None:
    cli.admin.reply["GET", "/models"] = answer(200, [])
    assert cli("ls", LLM_BRIDGE_ADMIN_KEY="admin-1", LLM_BRIDGE_API_KEY="other", LLM_BRIDGE_LANG="en").returncode == 0
    headers = cli.admin.requests[0].headers
    assert headers["authorization"] == "Bearer admin-1"
    assert headers["accept-language"] == "en"
    assert headers["host"] == f"127.0.0.1:{cli.admin.port}"


def test_odd_keys_do_not_break_the_client(cli: Program) -> None:
    cli.admin.reply["GET", "/models"] = answer(200, [])
    assert cli("ls", LLM_BRIDGE_ADMIN_KEY="鍵").returncode == 0
    assert cli("ls", LLM_BRIDGE_ADMIN_KEY="a\nb").returncode == 2
    assert [request.headers["authorization"] for request in cli.admin.requests] == ["Bearer 鍵"]


def test_version(cli: Program) -> None:
    assert cli("version").stdout.startswith("llm-bridge ")
    assert set(json.loads(cli("version", "--json").stdout)) == {"version"}


@pytest.mark.parametrize(
    ("status", "detail", "code"),
    [
        (400, "provider_modelはプロバイダー/モデル名 の形式で指定してください（例: ollama/phi3, openai/gpt-4）", 1),
        (401, "APIキーがないか、正しくありません", 5),
        (403, "許可されていません", 5),
        (404, "モデル nope は設定に存在しません", 4),
        (412, "設定はその間に変更されました", 1),
        (503, "ローカルエンジンを利用できません: 起動できません", 1),
        (507, "エラーが発生しました（exit code: 1）\n出力:\npulling manifest... 空きがありません\n", 6),
    ],
)
def test_exit_code_and_one_line_for_each_refusal(cli: Program, status: int, detail: str, code: int) -> None:
    cli.admin.reply["POST", "/models/manage"] = answer(status, {"detail": detail})
    done = cli("use", "nope")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert done.stderr.startswith(" ".join(detail.split()))
    assert ("LLM_BRIDGE_ADMIN_KEY" in done.stderr) == (status == 401)


@pytest.mark.parametrize("args", [("status",), ("ls", "--json"), ("use", "x"), ("run", "x", "y")])
@pytest.mark.parametrize(("lang", "word"), [("ja", "接続できません"), ("en", "Cannot reach")])
def test_not_reachable(cli: Program, args: tuple[str, ...], lang: str, word: str) -> None:
    nobody = f"127.0.0.1:{closed_port()}"
    done = cli(*args, LLM_BRIDGE_ADMIN=nobody, LLM_BRIDGE_GATEWAY=nobody, LLM_BRIDGE_LANG=lang)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert word in done.stderr and nobody in done.stderr


@pytest.mark.parametrize(
    "packets", [[b"SSH-2.0-x\r\n"], [], answer(200, b"<html>", "text/html"), [STREAM_HEAD + b"zz"]]
)
def test_another_program_on_the_port(cli: Program, packets: list[bytes]) -> None:
    cli.admin.reply["GET", "/models"] = packets
    done = cli("ls")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


@pytest.mark.parametrize("args", [(), ("nope",), ("use",), ("ls", "--nope"), ("config",), ("run",)])
def test_usage(cli: Program, args: tuple[str, ...]) -> None:
    assert cli(*args).returncode == 2


def test_an_unusable_setting_is_named_and_help_still_answers(cli: Program) -> None:
    done = cli("ls", LLM_BRIDGE_GATEWAY="nonsense")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "LLM_BRIDGE_GATEWAY" in done.stderr
    assert cli("--help", LLM_BRIDGE_GATEWAY="nonsense").returncode == 0


def test_a_proxy_never_sees_the_traffic(cli: Program) -> None:
    cli.admin.reply["GET", "/models"] = answer(200, [])
    assert cli("ls", http_proxy=cli.gateway.url, HTTP_PROXY=cli.gateway.url).returncode == 0
    assert cli.gateway.requests == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout(cli: Program) -> None:
    with Path("/dev/full").open("w") as full:
        line = [*COMMAND, "version"]
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, env=cli.env())
    assert (done.returncode, done.stderr.count("\n")) == (6, 1)
