"""The config file through its life: first start, edits, revisions, history, bad files (F10, F11)."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_bridge.config import first
from llm_bridge.config.edit import Editor
from llm_bridge.config.generations import KEEP, revision_of
from llm_bridge.config.schema import Config
from llm_bridge.config.store import ConfigStore
from llm_bridge.errors import ConfigInvalid, NotFound, Refused, RevisionMismatch
from llm_bridge.models import change

MUTATIONS = 100


def opened(home: Path) -> ConfigStore:
    store = ConfigStore(home / "config.yaml", home)
    store.open()
    return store


def _put(name: str, model: str = "openai/x", *, lead: bool = False) -> Callable[[Editor], None]:
    def change(editor: Editor) -> None:
        editor.put_model(name, model, first=lead)

    return change


def _remove_all(editor: Editor) -> None:
    for name in ("bridge-mini", "gpt-4o-mini", "gpt-4o"):
        assert editor.remove_model(name)


def edited(store: ConfigStore, edit: Callable[[Editor], None]) -> Config:
    """As the manager edits: a draft, then its writing."""
    return change.edited(store, edit).write(store)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_writes_a_commented_config(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    store = opened(home)
    assert [entry.provider_model for entry in store.current.models] == [
        "ollama/bridge-mini",
        "openai/gpt-4o-mini",
        "openai/gpt-4o",
    ]
    assert store.path.read_text() == first.TEXT
    assert store.current.revision == revision_of(first.TEXT.encode())
    assert store.warning is None
    assert (mode(home), mode(store.path), mode(home / "config-history")) == (0o700, 0o600, 0o700)
    assert all(mode(path) == 0o600 for path in (home / "config-history").iterdir())


def test_a_known_text_is_opened_without_the_yaml_reader(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from llm_bridge.config.store import ConfigStore; h = Path(sys.argv[1])\n"
        "c = ConfigStore(h / 'config.yaml', h).open(); print(c.models[0].name, any('ruamel' in m for m in sys.modules))"
    )

    def start() -> str:
        command = [sys.executable, "-c", code, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    assert start() == "bridge-mini False"
    edited(opened(tmp_path), _put("tiny", "ollama/tiny", lead=True))
    assert start() == "tiny False"
    (tmp_path / "config-history" / "accepted.json").write_text('{"form": 1, "sha256": "", "document": {}}')
    assert start() == "tiny True"


def test_an_edit_is_written_and_not_adopted(tmp_path: Path) -> None:
    store = opened(tmp_path)
    before = store.current
    config = edited(store, _put("claude", "anthropic/claude-x"))
    assert config.find("claude")
    assert store.current is before
    assert store.read() == config
    assert store.disk_revision() == config.revision != before.revision
    assert mode(store.path) == 0o600
    store.adopt(config)
    assert store.current is config


def test_a_draft_writes_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    before, after, text = store.draft(_put("z"))
    assert (before.revision, after.find("z") is not None) == (store.disk_revision(), True)
    assert revision_of(text.encode()) == after.revision
    assert store.path.read_text() == first.TEXT


def test_a_bad_edit_changes_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(ConfigInvalid):
        store.replace_text("model_list: []\n", None)
    with pytest.raises(ConfigInvalid):
        edited(store, _remove_all)
    assert store.path.read_text() == first.TEXT
    assert len(store.history()) == 1


def test_a_stale_revision_is_refused_and_the_current_one_named(tmp_path: Path) -> None:
    store = opened(tmp_path)
    stale = store.current.revision
    late = change.edited(store, _put("b"))
    now = edited(store, _put("a")).revision
    with pytest.raises(RevisionMismatch, match=now):
        late.write(store)
    with pytest.raises(RevisionMismatch, match=now):
        store.replace_text(first.TEXT, stale)
    with pytest.raises(RevisionMismatch, match=now):
        change.rolled_back(store, stale, stale)
    assert store.disk_revision() == now


def test_history_and_rollback(tmp_path: Path) -> None:
    store = opened(tmp_path)
    original = store.current.revision
    for number in range(KEEP + 3):
        edited(store, _put(f"m{number}"))
    history = store.history()
    assert len(history) == KEEP >= 4
    assert history[0].revision == store.disk_revision()
    back = change.rolled_back(store, history[3].revision, None).write(store)
    assert store.disk_revision() == back.revision == history[3].revision
    with pytest.raises(NotFound):
        change.rolled_back(store, original, None)


def test_a_rollback_brings_back_every_byte(tmp_path: Path) -> None:
    store = opened(tmp_path)
    before = store.replace_text(first.TEXT.replace("\n", "\r\n"))
    edited(store, _put("a"))
    assert change.rolled_back(store, before.revision, None).write(store).revision == before.revision


def test_sixteen_writers_lose_nothing(tmp_path: Path) -> None:
    """F10: each writer reads, edits on that revision, and tries again when somebody else was faster."""
    store, refused = opened(tmp_path), []

    def write(number: int) -> None:
        while True:
            try:
                edited(store, _put(f"w{number}"))
                return
            except RevisionMismatch:
                refused.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    config = store.read()
    lost = [number for number in range(16) if config.find(f"w{number}") is None]
    print(f"F10: 16 writers, {len(refused)} retries, lost {len(lost)}")
    assert lost == []


def test_a_file_that_cannot_be_written_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)

    def full(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(Refused, match="No space left"):
        edited(store, _put("a"))
    monkeypatch.undo()
    assert store.path.read_text() == first.TEXT
    assert len(store.history()) == 1
    assert [path.name for path in tmp_path.rglob("*.tmp")] == []


def test_a_symbolic_link_to_the_config_stays_one(tmp_path: Path) -> None:
    real = tmp_path / "elsewhere.yaml"
    real.write_text(first.TEXT)
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.yaml").symlink_to(real)
    edited(opened(home), _put("a"))
    assert (home / "config.yaml").is_symlink()
    assert "model_name: a" in real.read_text()


@pytest.mark.parametrize("bad", [b"", b"\xff\xfe", b"model_list: [", b"- 1\n", b"model_list: []\n", b"x" * (2 << 20)])
def test_a_bad_file_is_left_alone_and_something_serves(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(bad)
    store = opened(tmp_path)
    assert store.current.default is not None
    assert store.warning and str(path) in store.warning
    assert path.read_bytes() == bad
    with pytest.raises(ConfigInvalid):
        edited(store, _put("a"))
    store.adopt(store.replace_text(first.TEXT))
    assert opened(tmp_path).warning is None
    assert (tmp_path / "config-history" / "rejected.yaml").read_bytes() == bad


def test_a_fifo_in_place_of_the_config_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.yaml")
    store = opened(tmp_path)
    assert store.current.default is not None
    assert store.warning


def test_a_missing_file_comes_back(tmp_path: Path) -> None:
    store = opened(tmp_path)
    latest = edited(store, _put("a"))
    store.path.unlink()
    again = opened(tmp_path)
    assert again.current.revision == latest.revision == again.disk_revision()
    assert again.warning and "missing" in again.warning


def test_f11_mutated_configs_always_start(tmp_path: Path) -> None:
    dice, nothing, fallbacks = random.Random(11), 0, 0
    store = opened(tmp_path / "seeded")
    edited(store, _put("kept"))
    for number in range(MUTATIONS):
        home = tmp_path / ("seeded" if number % 2 else f"empty{number}")
        home.mkdir(exist_ok=True)
        (home / "config.yaml").write_bytes(_mutated(dice))
        mutant = opened(home)
        served = mutant.current.default
        nothing += served is None
        fallbacks += mutant.warning is not None
    print(f"F11: {MUTATIONS} mutated configs, {fallbacks} fell back, starts that serve nothing {nothing}")
    assert nothing == 0
    assert 0 < fallbacks < MUTATIONS


def _mutated(dice: random.Random) -> bytes:
    data = bytearray(first.TEXT.encode())
    for _ in range(dice.choice((1, 1, 3, 30))):
        at = dice.randrange(len(data))
        match dice.randrange(4):
            case 0:
                data[at] = dice.randrange(256)
            case 1:
                del data[at : at + dice.randrange(200)]
            case 2:
                data[at:at] = bytes(dice.choice(b"[]{}:-#&*!|>%@'\"\n\t ") for _ in range(dice.randrange(5)))
            case _:
                data[at:at] = data[: dice.randrange(400)]
    return bytes(data)
