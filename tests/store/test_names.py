"""F1: whatever a name or digest says, nothing outside the store is touched."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_bridge.errors import BadRequest, BridgeError
from llm_bridge.store import names
from llm_bridge.store.blobs import BlobStore, parse_digest
from llm_bridge.store.catalogue import Catalogue
from llm_bridge.store.manifests import CONFIG_TYPE, MODEL_LAYER, Layer, Manifest, ManifestStore

EXAMPLES = 2500  # for names, and as many for digests
_OS = ("remove", "rename", "link", "symlink", "mkdir", "rmdir", "chmod", "listdir", "scandir", "truncate", "utime")
_EVENTS = {"open", "shutil.rmtree", *(f"os.{name}" for name in _OS)}


class _Audit:
    """Counts file operations outside a folder. An audit hook cannot be removed: there is one, switched on and off."""

    def __init__(self) -> None:
        self.inside: str | None = None
        self.seen = 0
        self.outside: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.inside is None or event not in _EVENTS:
            return
        for argument in arguments[: 2 if event in ("os.rename", "os.link", "os.symlink") else 1]:
            if isinstance(argument, str | bytes | os.PathLike):
                self.seen += 1
                path = os.path.realpath(os.fsdecode(argument))
                if path != self.inside and not path.startswith(self.inside + "/"):
                    self.outside.append(f"{event} {path}")

    @contextlib.contextmanager
    def within(self, folder: Path) -> Iterator[None]:
        self.inside = os.path.realpath(folder)
        try:
            yield
        finally:
            self.inside = None


AUDIT = _Audit()
TOTALS = {"cases": 0, "accepted": 0}
_WORDS = r"""
.. . / \ : a library hf.co latest %2e%2e ~ - _ é sha256 // /etc/passwd registry.ollama.ai ..; C: @ # ? A.b-c_d
"""
_PIECES = st.sampled_from([*_WORDS.split(), "\x00", "\n", " ", "a" * 90, "\u2024\u2024", "\uff0e\uff0e"])
_HOSTILE = st.lists(_PIECES, max_size=8).map("".join) | st.text(max_size=40)
_HEX = "0123456789abcdef"
_LAYER = Layer(MODEL_LAYER, parse_digest("sha256:" + "0" * 64), 1)
_MANIFEST = Manifest(Layer(CONFIG_TYPE, _LAYER.digest, 1), (_LAYER,))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home") / "models"


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=_HOSTILE)
def test_f1_names(root: Path, name: str) -> None:
    catalogue, manifests = Catalogue(root, root / "builtin.gguf"), ManifestStore(root)
    TOTALS["cases"] += 1
    with AUDIT.within(root):
        assert catalogue.find(name) is None
        with contextlib.suppress(BridgeError):
            catalogue.delete(name)
        try:
            parsed = names.parse(name)
        except BadRequest:
            return
        TOTALS["accepted"] += 1
        assert names.parse(parsed.short) == parsed
        with contextlib.suppress(OSError):
            manifests.write(parsed, _MANIFEST)
        manifests.read(parsed)
        manifests.delete(parsed)
    assert AUDIT.outside == []


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=_HOSTILE
    | st.text(_HEX, min_size=64, max_size=64)
    | _HOSTILE.map(lambda text: f"sha256:{text}")
    | st.text(_HEX, min_size=60, max_size=68).map(lambda text: f"sha256-{text}")
)
def test_f1_digests(root: Path, text: str) -> None:
    blobs = BlobStore(root)
    TOTALS["cases"] += 1
    with AUDIT.within(root):
        try:
            digest = parse_digest(text)
        except BadRequest:
            return
        TOTALS["accepted"] += 1
        assert blobs.size(digest) is None
        blobs.delete(digest)
    assert AUDIT.outside == []


def test_f1_figures() -> None:
    print(
        f"F1: {TOTALS['cases']} cases, {TOTALS['accepted']} accepted, {AUDIT.seen} file operations, "
        f"outside the store {len(AUDIT.outside)}"
    )
    assert AUDIT.seen > 1000
    assert AUDIT.outside == []


def test_the_audit_sees_what_it_should(tmp_path: Path) -> None:
    with AUDIT.within(tmp_path / "store"):
        (tmp_path / "elsewhere").touch()
    assert AUDIT.outside.pop().endswith("elsewhere")


@pytest.mark.parametrize(
    ("text", "path", "short"),
    [
        ("smollm2:135m", "registry.ollama.ai/library/smollm2/135m", "smollm2:135m"),
        ("tiny", "registry.ollama.ai/library/tiny/latest", "tiny"),
        ("tiny:latest", "registry.ollama.ai/library/tiny/latest", "tiny"),
        ("user/model", "registry.ollama.ai/user/model/latest", "user/model"),
        ("hf.co/user/repo:Q4_K_M", "hf.co/user/repo/Q4_K_M", "hf.co/user/repo:Q4_K_M"),
        ("localhost:5000/a/b:c", "localhost:5000/a/b/c", "localhost:5000/a/b:c"),
        ("localhost:5000/a/b", "localhost:5000/a/b/latest", "localhost:5000/a/b"),
    ],
)
def test_names_as_users_write_them(text: str, path: str, short: str) -> None:
    name = names.parse(text)
    assert (str(name.path), name.short) == (path, short)


NOT_NAMES = """
: a: :a /a a/ a//b a/b/c/d .. a/.. ../a .a a:.b -a a:b:c h_st/a/b é
"""


@pytest.mark.parametrize("text", [*NOT_NAMES.split(), "", "a b", "a\x00", "a\n", "a" * 400])
def test_what_is_not_a_name(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        names.parse(text)
    assert "\n" not in caught.value.text("ja")
    assert len(caught.value.text("ja")) < 250
