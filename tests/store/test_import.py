"""B4: an import reads regular files below the configured folder and nothing else."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
from pathlib import Path
from typing import BinaryIO

import orjson
import pytest

from llm_bridge.errors import BadRequest, BridgeError, DownloadFailed, NotFound, Refused
from llm_bridge.store import gguf
from llm_bridge.store.catalogue import Catalogue, open_below
from llm_bridge.store.gguf import GgufError, Header
from tests.support.tiny_gguf import write_not_gguf, write_tiny_gguf

ATTACKS = """
link.gguf up/outside.gguf root/etc/passwd loop null fifo.gguf socket.gguf sub . .. ../outside.gguf x.gguf/ x.gguf/..
sub/../../outside.gguf /etc/passwd /proc/self/environ /proc/self/mem /dev/zero ~/x /proc/self/cwd/x sub/../x.gguf
up/import/../outside.gguf
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "import" / "sub").mkdir(parents=True)
    write_tiny_gguf(tmp_path / "import" / "x.gguf")
    write_tiny_gguf(tmp_path / "outside.gguf", seed=5)
    write_tiny_gguf(tmp_path / "builtin.gguf", seed=9)
    return tmp_path


@pytest.fixture
def catalogue(home: Path) -> Catalogue:
    return Catalogue(home / "models", home / "builtin.gguf")


def test_an_imported_model_lies_in_ollamas_layout(home: Path, catalogue: Catalogue) -> None:
    source = home / "import" / "x.gguf"
    model = catalogue.import_file(Path("x.gguf"), home / "import", "tiny")
    digest = "sha256:" + hashlib.sha256(source.read_bytes()).hexdigest()
    assert (model.name, model.digest, model.size, model.builtin) == ("tiny", digest, source.stat().st_size, False)
    assert model.path == home / "models" / "blobs" / digest.replace(":", "-")
    manifest = orjson.loads((home / "models/manifests/registry.ollama.ai/library/tiny/latest").read_bytes())
    assert manifest["layers"] == [
        {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": model.size}
    ]
    config = orjson.loads((home / "models/blobs" / manifest["config"]["digest"].replace(":", "-")).read_bytes())
    assert (config["model_format"], config["model_family"]) == ("gguf", "llama")
    assert catalogue.find("tiny:latest") == catalogue.find("tiny") == model
    assert [known.name for known in catalogue.list()] == ["bridge-mini", "tiny"]
    assert list((home / "models" / "partial").iterdir()) == []


def test_what_is_written_to_the_file_later_does_not_reach_the_blob(home: Path, catalogue: Catalogue) -> None:
    source = home / "import" / "x.gguf"
    kept = catalogue.import_file(Path("x.gguf"), home / "import", "one")
    before = kept.path.read_bytes()
    assert not kept.path.samefile(source)
    with source.open("r+b") as file:  # as `cp newer.gguf import/x.gguf` does it
        file.truncate(100)
    assert kept.path.read_bytes() == before


@pytest.mark.parametrize("clones", [True, False])
def test_a_clone_and_a_copy_are_the_same(
    home: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, clones: bool
) -> None:
    """Few file systems have reflinks, so the call is played."""

    def ioctl(target: int, _request: int, source: int) -> int:
        if not clones:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return os.pwrite(target, os.pread(source, 1 << 22, 0), 0)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    source = home / "import" / "x.gguf"
    model = catalogue.import_file(source, home / "import", "one")
    assert model.digest == "sha256:" + hashlib.sha256(source.read_bytes()).hexdigest()
    assert model.path.read_bytes() == source.read_bytes()
    assert catalogue.import_file(source, home / "import", "two").modified == model.modified, "the blob is not replaced"
    assert list((home / "models" / "partial").iterdir()) == []


def test_b4_nothing_outside_is_read(home: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "import"
    (folder / "link.gguf").symlink_to(home / "outside.gguf")
    (folder / "up").symlink_to(home)
    (folder / "root").symlink_to("/")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "null").symlink_to("/dev/null")
    os.mkfifo(folder / "fifo.gguf")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(folder)  # a socket's path has to be short
        listener.bind("socket.gguf")
        os.chdir(here)
    attacks = [*ATTACKS.split(), "", "a\x00b", str(home / "outside.gguf")]
    opened: list[str] = []

    def note(file: BinaryIO) -> Header:
        opened.append(str(Path(f"/proc/self/fd/{file.fileno()}").readlink()))
        raise GgufError("noted")

    monkeypatch.setattr(gguf, "read_header", note)
    for attack in attacks:
        with pytest.raises(BridgeError):
            catalogue.import_file(Path(attack), folder, "evil")
    outside = [path for path in opened if not path.startswith(str(folder.resolve()) + "/")]
    print(f"B4: {len(attacks)} paths, files opened inside {len(opened)}, bytes read outside {len(outside)}")
    assert outside == []
    assert set(opened) <= {str(folder.resolve() / "x.gguf")}


def test_a_link_that_stays_inside_is_followed(home: Path) -> None:
    (home / "import" / "alias.gguf").symlink_to("x.gguf")
    with open_below(Path("alias.gguf"), home / "import") as file:
        assert file.read(4) == b"GGUF"


def test_errors_say_what_is_wrong(home: Path, catalogue: Catalogue) -> None:
    folder = home / "import"
    write_not_gguf(folder / "bad.gguf")
    with pytest.raises(NotFound, match="absent"):
        catalogue.import_file(Path("absent.gguf"), folder, "a")
    with pytest.raises(BadRequest, match="import"):
        catalogue.import_file(Path("/etc/absent"), folder, "a")
    with pytest.raises(BadRequest, match="model name"):
        catalogue.import_file(Path("x.gguf"), folder, "../a")
    with pytest.raises(Refused, match="built-in"):
        catalogue.import_file(Path("x.gguf"), folder, "bridge-mini")
    with pytest.raises(DownloadFailed) as caught:
        catalogue.import_file(Path("bad.gguf"), folder, "a")
    assert caught.value.status == 422
    assert "Repository is not GGUF or is not compatible with llama.cpp" in caught.value.text("ja")
    assert catalogue.find("a") is None


def test_a_full_disk_is_said_and_leaves_nothing(
    home: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DownloadFailed) as caught:
        catalogue.import_file(Path("x.gguf"), home / "import", "a")
    assert caught.value.status == 507
    assert catalogue.find("a") is None
    assert list((home / "models" / "partial").iterdir()) == []


def test_deleting_keeps_blobs_that_others_use(home: Path, catalogue: Catalogue) -> None:
    one = catalogue.import_file(Path("x.gguf"), home / "import", "one")
    catalogue.import_file(Path("x.gguf"), home / "import", "two")
    catalogue.delete("one")
    assert catalogue.find("one") is None
    assert one.path.exists()
    catalogue.delete("two")
    assert not one.path.exists()
    assert list((home / "models" / "blobs").iterdir()) == []
    assert not (home / "models/manifests/registry.ollama.ai").exists()
    with pytest.raises(NotFound):
        catalogue.delete("two")
    with pytest.raises(Refused):
        catalogue.delete("bridge-mini")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"layers": [{"digest": "sha256:../../x"}]}', '{"config": 1, "layers": []}']
)
def test_a_damaged_manifest_hides_its_model_and_prunes_nothing(home: Path, catalogue: Catalogue, text: str) -> None:
    kept = catalogue.import_file(Path("x.gguf"), home / "import", "one")
    catalogue.import_file(Path("x.gguf"), home / "import", "two")
    (home / "models/manifests/registry.ollama.ai/library/two/latest").write_text(text)
    assert [model.name for model in catalogue.list()] == ["bridge-mini", "one"]
    catalogue.delete("one")
    assert kept.path.exists()
