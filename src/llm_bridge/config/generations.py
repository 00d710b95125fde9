"""Atomic file generations: the file and its recent past survive a kill or a power loss at any moment.

A commit first makes the new text durable as a numbered generation, then puts it in place of the file by temp + fsync +
rename + fsync of the folder. So at every moment the file is either whole and old or whole and new, and the newest
readable generation is there when someone damages the file by hand. Writers of several processes take turns by flock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

KEEP = 10
MAX_READ = 1 << 21
_NAME = re.compile(r"([0-9]{8})-([0-9a-f]{16})\.yaml")
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Generation:
    """One accepted text. `saved` is seconds since the epoch."""

    number: int
    revision: str
    path: Path
    saved: float


def revision_of(data: bytes) -> str:
    """The name of a text: the first 16 hex digits of its sha256."""
    return hashlib.sha256(data).hexdigest()[:16]


def read_bytes(path: Path) -> bytes:
    """A regular file's bytes, at most 2 MiB (one more than a config may have, so that "too large" is seen as such).

    Raises:
        OSError: missing, not readable, or not a regular file.
    """
    fd = os.open(path, _OPEN_FLAGS)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read(MAX_READ)


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Put `data` in place of `path` (mode 0600) with temp, fsync, rename and fsync of the folder.

    A symbolic link is followed, so that a config kept elsewhere stays where it is.
    """
    target = path.resolve()
    temp = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, 0o600)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(fd)
        temp.rename(target)
    except OSError as cause:
        temp.unlink(missing_ok=True)
        if cause.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        _write_in_place(target, data)  # a file mounted by itself (a container's volume) cannot be renamed over
    if durable:
        sync_folder(target.parent)


def _write_in_place(target: Path, data: bytes) -> None:
    """The one way that is not atomic; the generation written before it covers a crash in the middle."""
    with target.open("r+b") as file:
        file.write(data)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Generations:
    """The accepted texts of one file, in a folder of their own (0700), the newest `KEEP` of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the writers' lock of this folder; blocks while another process holds it."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def list(self) -> list[Generation]:
        """All generations, the newest first."""
        found: list[Generation] = []
        with contextlib.suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                match = _NAME.fullmatch(path.name)
                if match:
                    with contextlib.suppress(FileNotFoundError):
                        saved = path.stat().st_mtime
                        found.append(Generation(int(match[1]), match[2], path, saved))
        return sorted(found, key=lambda generation: generation.number, reverse=True)

    def record(self, data: bytes) -> Path | None:
        """Make `data` the newest generation; None if it is that already. Call it within `turn`."""
        known = self.list()
        revision = revision_of(data)
        if known and known[0].revision == revision:
            return None
        number = known[0].number + 1 if known else 1
        path = self._folder / f"{number:08}-{revision}.yaml"
        write_atomic(path, data)
        for old in known[KEEP - 1 :]:
            old.path.unlink(missing_ok=True)
        return path

    def commit(self, path: Path, data: bytes) -> None:
        """Record `data`, then put it in place of `path`. Call it within `turn`."""
        recorded = self.record(data)
        try:
            write_atomic(path, data)
        except OSError:
            if recorded:  # what was never in place must not come back as the last good one
                recorded.unlink(missing_ok=True)
            raise

    def set_aside(self, data: bytes) -> Path:
        """Keep a text that was not accepted and is about to be replaced; the last one kept wins."""
        path = self._folder / "rejected.yaml"
        write_atomic(path, data)
        return path

    def newest(self, readable: Callable[[bytes], bool]) -> tuple[Generation, bytes] | None:
        """The newest generation whose text is whole (its name holds its hash) and `readable`."""
        for generation in self.list():
            with contextlib.suppress(OSError):
                data = read_bytes(generation.path)
                if revision_of(data) == generation.revision and readable(data):
                    return generation, data
        return None
