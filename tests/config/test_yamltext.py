"""Reading YAML within limits (C8), and writing what is read back the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_bridge.config import emit, first, yamltext
from llm_bridge.errors import ConfigInvalid
from tests.config import bombs

RSS_LIMIT_MB = 20


def test_the_first_config_says_what_its_data_says() -> None:
    assert yamltext.read(first.TEXT).root.plain() == first.document()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-3", -3),
        ("1_000", 1000),
        ("0x1f", 31),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("yes", True),
        ("off", False),
        ("~", None),
        ("2024-05-13", "2024-05-13"),
        ("010", "010"),
        ("12:30", "12:30"),
        ("smollm2:135m", "smollm2:135m"),
        ("'1'", "1"),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    found = yamltext.read(f"a: {text}").root.plain()["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: &x 1\nb: *x\n", "line 1: anchors"),
        ("a: 1\nb: *x\n", "line 2: aliases"),
        ("a: !!python/object/apply:os.system [id]", "line 1: tags"),
        ("%YAML 1.1\n---\na: 1", "directives"),
        ("a: 1\n---\nb: 2", "line 2: only one document"),
        ("a: 1\nb:\n  <<: {c: 1}", "line 3: merge keys"),
        ("a: 1\nb: 2\na: 3", "line 3: duplicate key a"),
        ("[a]: 1", "a key must be a text"),
        ("a: 'x\n", "not readable"),
        (b"a: \xff", "line 1: not UTF-8"),
        ('a: "\\ud800"', "surrogate"),
        ("a: 1e999", "too large"),
        ("a: \x00", "not readable"),
    ],
)
def test_what_is_not_a_plain_tree_is_refused_with_its_line(text: str | bytes, why: str) -> None:
    with pytest.raises(ConfigInvalid, match=why):
        yamltext.read(text)


def test_lines_of_values() -> None:
    tree = yamltext.read("a: 1\nb:\n  - c: 2\n    d: 3\n")
    assert [tree.line(path) for path in ((), ("a",), ("b", 0, "d"), ("b", 0, "absent"), ("b", 9))] == [1, 1, 4, 3, 3]


def test_c8_bombs(tmp_path: Path) -> None:
    """In a process of its own, because what counts is its peak of memory."""
    count = bombs.write(tmp_path)
    command = [sys.executable, "-m", "tests.config.bombs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    grown, accepted, slowest = done.stdout.split()
    print(f"C8: {count} bombs, RSS +{grown} MB, tracebacks 0, accepted {accepted}, slowest {slowest} s")
    assert count >= 50
    assert float(grown) <= RSS_LIMIT_MB
    assert int(accepted) == 0
    assert done.stderr == ""


_TEXTS = st.text(max_size=30)
_DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(_TEXTS.filter(lambda key: key != "<<"), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(_DOCUMENTS)
def test_what_is_written_is_read_back_the_same(document: Any) -> None:
    assert yamltext.read(emit.document(document)).root.plain() == document


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet="ab:-#?&*!|>%@`\"'[]{},\n\t \\\x00é", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        yamltext.read(text)
    except ConfigInvalid as refused:
        assert "\n" not in refused.text("ja")
