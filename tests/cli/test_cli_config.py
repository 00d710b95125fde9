"""`config env`, the language, the tables' width, and what `--help` imports."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from llm_bridge.cli.console import layout, width
from llm_bridge.settings import SETTINGS, variable
from tests.cli.program import Program, environment


def rows(cli: Program, **env: str) -> dict[str, dict[str, object]]:
    done = cli("config", "env", "--json", **env)
    assert done.returncode == 0, done
    return {row["name"]: row for row in json.loads(done.stdout)}


def test_every_setting_with_value_and_source(cli: Program) -> None:
    (cli.home / ".env").write_text("LLM_BRIDGE_THREADS=3\nLLM_BRIDGE_PARALLEL=2\n")
    found = rows(cli, LLM_BRIDGE_PARALLEL="8", LLM_BRIDGE_ALLOWED_HOSTS="a.example,b.example")
    assert list(found) == [variable(item.name) for item in SETTINGS]
    assert (found["LLM_BRIDGE_PARALLEL"]["value"], found["LLM_BRIDGE_PARALLEL"]["source"]) == ("8", "環境変数")
    assert (found["LLM_BRIDGE_THREADS"]["value"], found["LLM_BRIDGE_THREADS"]["source"]) == (
        "3",
        str(cli.home / ".env"),
    )
    assert (found["LLM_BRIDGE_GRACE"]["value"], found["LLM_BRIDGE_GRACE"]["source"]) == ("30", "既定")
    assert found["LLM_BRIDGE_ALLOWED_HOSTS"]["value"] == "a.example,b.example"
    assert found["LLM_BRIDGE_CONFIG"]["value"] == str(cli.home / "config.yaml")


def test_secrets_never_appear(cli: Program) -> None:
    env = {"LLM_BRIDGE_API_KEY": "canary-1", "LLM_BRIDGE_ADMIN_KEY": "canary-2", "LITELLM_MASTER_KEY": "canary-3"}
    for args in (("config", "env"), ("config", "env", "--json"), ("config", "env", "--example")):
        assert "canary" not in cli(*args, **env).stdout
    assert rows(cli, **env)["LLM_BRIDGE_API_KEY"]["value"] == "********"
    assert rows(cli, LITELLM_MASTER_KEY="canary-3")["LLM_BRIDGE_API_KEY"]["source"] == "LITELLM_MASTER_KEY"


@pytest.mark.parametrize(
    ("env", "word"),
    [
        ({"LLM_BRIDGE_LANG": "en", "LANG": "ja_JP.UTF-8"}, "VARIABLE"),
        ({"LLM_BRIDGE_LANG": "ja", "LANG": "en_US.UTF-8"}, "変数"),
        ({"LLM_BRIDGE_LANG": "", "LANG": "en_US.UTF-8"}, "VARIABLE"),
        ({"LLM_BRIDGE_LANG": "", "LC_ALL": "ja_JP.UTF-8", "LANG": "en_US.UTF-8"}, "変数"),
        ({"LLM_BRIDGE_LANG": "", "LC_ALL": "C", "LANG": "en_US.UTF-8"}, "変数"),
        ({"LLM_BRIDGE_LANG": ""}, "変数"),
    ],
)
def test_language(cli: Program, env: dict[str, str], word: str) -> None:
    done = cli("config", "env", **env)
    assert (done.returncode, done.stdout.split()[0]) == (0, word)


def test_japanese_prints_where_python_would_use_ascii(cli: Program) -> None:
    done = cli("--help", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0
    assert "モデルの一覧" in done.stdout


@pytest.mark.parametrize(("text", "columns"), [("abc", 3), ("日本", 4), ("ｶﾅ", 2), ("Ａ", 2), ("か\u3099", 2), ("", 0)])
def test_width(text: str, columns: int) -> None:
    assert width(text) == columns


def test_columns_start_at_the_same_place() -> None:
    lines = layout([["名前", "x"], ["a", "y"], ["モデル名", "z"]])
    assert [width(line[: line.index(c)]) for line, c in zip(lines, "xyz", strict=True)] == [10, 10, 10]


def test_help_imports_nothing_heavy(cli: Program) -> None:
    code = (
        "import sys\n"
        "from llm_bridge.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('llm_bridge.')), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, env=environment(cli.home), check=True
    )
    tops, ours = (set(line.split()) for line in done.stderr.splitlines())
    assert not tops & {
        "fastapi",
        "starlette",
        "pydantic",
        "xllamacpp",
        "ruamel",
        "uvloop",
        "httptools",
        "asyncio",
    }
    allowed = ("llm_bridge.cli", "llm_bridge.settings", "llm_bridge.errors", "llm_bridge.version")
    assert {name for name in ours if not name.startswith(allowed)} == set()
