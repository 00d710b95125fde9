"""One data directory, one running bridge: the lock, and the note that tells where it listens."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson


class AlreadyRunningError(RuntimeError):
    """Another process holds the data directory; `pid` is its id, 0 when unknown."""

    def __init__(self, home: Path, pid: int) -> None:
        super().__init__(f"{home} (pid {pid or '?'})")
        self.home = home
        self.pid = pid


class NoHomeError(RuntimeError):
    """The data directory cannot be made or written; the text says why."""


@contextmanager
def locked(home: Path) -> Iterator[Path]:
    """Hold `home` for this process; yields the path of the note. The kernel lets go of the lock however we end.

    Raises:
        AlreadyRunningError: another bridge runs on it.
        NoHomeError: it cannot be made or written.
    """
    run = home / "run"
    note = run / "bridge.json"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        run.mkdir(mode=0o700, exist_ok=True)
        lock = (run / "lock").open("a+b")
    except OSError as cause:
        raise NoHomeError(cause.strerror or str(cause)) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(home, int(read(note).get("pid", 0))) from None
        note.unlink(missing_ok=True)
        try:
            yield note
        finally:
            note.unlink(missing_ok=True)


def write(note: Path, **facts: object) -> None:
    """Replace the note in one step, so that a reader sees all of it or none."""
    fresh = note.with_suffix(".new")
    fresh.write_bytes(orjson.dumps({"pid": os.getpid(), **facts}))
    fresh.replace(note)


def read(note: Path) -> dict[str, Any]:
    """The note's facts; empty when there is none."""
    try:
        facts = orjson.loads(note.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return facts if isinstance(facts, dict) else {}


def holder(port: int) -> str:
    """``"nginx (pid 1234)"`` for whoever listens on a TCP port, as far as this user may see; else an empty string."""
    inodes = {inode for table in ("tcp", "tcp6") for inode in _listening(Path("/proc/net") / table, port)}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = {str(fd.readlink()) for fd in (process / "fd").iterdir()}
            if links & {f"socket:[{inode}]" for inode in inodes}:
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:  # gone meanwhile, or another user's
            continue
    return ""


def _listening(table: Path, port: int) -> Iterator[str]:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return
    for fields in map(str.split, lines):
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]
