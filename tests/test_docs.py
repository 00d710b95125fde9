"""The documents say what the code declares, and both READMEs say the same."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from llm_bridge.cli import main
from llm_bridge.cli.configuration import PROVIDER_KEYS, example, shown
from llm_bridge.cli.console import Console
from llm_bridge.errors import DownloadFailed, ModelNotConfigured, ProviderModelForm
from llm_bridge.providers.table import PROVIDERS
from llm_bridge.settings import SETTINGS, load, variable

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.en.md")
DOCUMENTS = (*READMES, "CHANGELOG.md", "CONTRIBUTING.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(name: str) -> str:
    return FENCE.sub("", read(name))


def headings(name: str) -> list[tuple[int, str]]:
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", prose(name), re.M)]


def tables(name: str) -> list[list[list[str]]]:
    """Each table as rows of cells."""
    found = re.findall(r"(?:^\|.*\|\n)+", prose(name), re.M)
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()] for table in found]


def anchors(name: str) -> Iterator[str]:
    for _, title in headings(name):
        kept = "".join(c for c in title.lower() if c in " -_" or unicodedata.category(c)[0] in "LNM")
        yield kept.replace(" ", "-")


def test_env_example_is_derived_from_the_settings() -> None:
    assert read(".env.example") == example(), "run: llm-bridge config env --example > .env.example"


def test_env_example_uncommented_means_the_defaults(tmp_path: Path) -> None:
    lines = [line.removeprefix("# ") for line in read(".env.example").splitlines()]
    pairs = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z_]+=", line))
    names = [variable(item.name) for item in SETTINGS]
    assert list(pairs) == [*names, *PROVIDER_KEYS]
    changed, plain = load({"LLM_BRIDGE_HOME": str(tmp_path)} | pairs, tmp_path), load({}, tmp_path)
    for item in SETTINGS:
        assert getattr(changed, item.name) == getattr(plain, item.name), item.name


def test_provider_keys_are_those_of_the_table() -> None:
    assert set(PROVIDER_KEYS) == {row.variable for row in PROVIDERS.values()} | {"OPENAI_BASE_URL"}


@pytest.mark.parametrize("name", READMES)
def test_settings_table(name: str) -> None:
    [table] = [table for table in tables(name) if table[2][0].startswith("`LLM_BRIDGE_")]
    none = "なし" if name == "README.md" else "none"
    declared = [
        (f"`{variable(item.name)}`", f"`{shown(item.default)}`" if shown(item.default) else none) for item in SETTINGS
    ]
    assert [(row[0], row[1]) for row in table[2:]] == declared
    for key in PROVIDER_KEYS:
        assert f"`{key}`" in read(name)


def test_both_readmes_have_the_same_shape() -> None:
    ja, en = READMES
    assert [level for level, _ in headings(ja)] == [level for level, _ in headings(en)]
    assert FENCE.findall(read(ja)) == FENCE.findall(read(en))
    assert [[len(row) for row in table] for table in tables(ja)] == [
        [len(row) for row in table] for table in tables(en)
    ]
    assert prose(ja).count("\n- ") == prose(en).count("\n- ")


@pytest.mark.parametrize("name", READMES)
def test_the_users_error_texts_are_exact(name: str) -> None:
    text = read(name)
    assert f"`{ProviderModelForm().text('ja')}`" in text
    refused = DownloadFailed("Repository is not GGUF or is not compatible with llama.cpp", 422).text("ja")
    assert "`" + refused.replace("\n", "\\n") + "`" in text
    assert f"`{ModelNotConfigured(model='○○○').text('ja')}`" in text


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_broken_links(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(name)):
        if target.startswith("#"):
            assert target[1:] in set(anchors(name)), target
        elif not target.startswith("https://"):
            assert (ROOT / target).is_file(), target


@pytest.mark.parametrize("name", READMES)
def test_the_table_of_commands_is_the_command_line(name: str, tmp_path: Path) -> None:
    shown_help = main.parser(Console("en", colour=False)).format_help()
    verbs = set(re.findall(r"^    ([a-z]+) ", shown_help, re.M))
    [table] = [table for table in tables(name) if table[2][0].startswith("`llm-bridge up")]
    assert {row[0].strip("`").split()[1] for row in table[2:]} == verbs
    assert (
        set(re.findall(r"\bllm-bridge ([a-z]+)\b(?!-)", "".join(body for _, body in FENCE.findall(read(name)))))
        <= verbs
    )


@pytest.mark.parametrize("name", READMES)
def test_python_examples_compile_and_shell_examples_name_both_ports_only(name: str) -> None:
    for language, body in FENCE.findall(read(name)):
        if language == "python":
            compile(body, name, "exec")
        assert set(re.findall(r"localhost:(\d+)", body)) <= {"8000", "9999"}


def test_changelog_and_package_agree_on_the_version() -> None:
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert f"## [{version}]" in read("CHANGELOG.md")


def test_the_diagram_is_well_formed_and_stands_alone() -> None:
    text = read("assets/llm-bridge-architecture.svg")
    ElementTree.fromstring(text)  # noqa: S314 (our own file)
    assert "href" not in text and "<script" not in text and "url(http" not in text
