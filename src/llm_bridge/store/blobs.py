"""Content by its sha256 below ``blobs/``: a name there means the hash was verified and the bytes are on the disk.

Paths are made from a parsed digest only. Writing happens outside ``blobs/`` (in ``partial/``); the final name appears
by one rename after fsync, so a crash leaves rubbish in ``partial/`` and never a wrong blob.

A blob is never a link to somebody else's file: whoever writes to that file later would change the blob under its name,
and an engine that has it mapped would die of a SIGBUS. Where the file system can share extents, a clone costs nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llm_bridge.errors import BadRequest

CHUNK = 1 << 20
_FICLONE = 0x40049409  # <linux/fs.h>; the fcntl module has no name for it before Python 3.14
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Digest:
    """A parsed sha256, 64 lower-case hex digits."""

    hex: str

    def __str__(self) -> str:
        return f"sha256:{self.hex}"


def parse_digest(text: str) -> Digest:
    """``"sha256:<64 hex>"`` (or with a dash, as in file names) → Digest. Raises BadRequest."""
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise BadRequest(ja="ダイジェストの形式が正しくありません", en="This is not a digest (sha256:…)")
    return Digest(match[1])


class BlobStore:
    """The blobs of one store root."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._partial = root / "partial"

    def path(self, digest: Digest) -> Path:
        return self._blobs / f"sha256-{digest.hex}"

    def size(self, digest: Digest) -> int | None:
        """The blob's size in bytes, or None when there is no such regular file."""
        with contextlib.suppress(OSError):
            found = self.path(digest).lstat()
            if stat.S_ISREG(found.st_mode):
                return found.st_size
        return None

    def publish(self, source: BinaryIO) -> tuple[Digest, int]:
        """Copy a stream into the store, hashing while writing. Returns its digest and size. Raises OSError."""
        with self._temporary() as temp:
            with temp.open("xb") as file:
                digest, size = _copy(source, file)
                os.fsync(file.fileno())
            self._appear(temp, digest)
            return digest, size

    def publish_open_file(self, file: BinaryIO) -> tuple[Digest, int]:
        """Take an open regular file in, from its start: by a clone of its extents where that works, else by a copy.

        Raises OSError, also when the file changed while it was read.
        """
        before = os.fstat(file.fileno())
        with self._temporary() as temp:
            with temp.open("x+b") as taken:
                file.seek(0)
                # What is hashed is what is kept: the clone, or the very bytes that are written.
                digest, size = _hash(taken) if _cloned(taken, file) else _copy(file, taken)
                os.fsync(taken.fileno())
            after = os.fstat(file.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise OSError(errno.EBUSY, "the file changed while it was read")
            if self.size(digest) != size:  # a blob that is here keeps its time, or its engine would look outdated
                self._appear(temp, digest)
            return digest, size

    def delete(self, digest: Digest) -> None:
        self.path(digest).unlink(missing_ok=True)

    def clean(self) -> None:
        """Remove what an interrupted import left behind."""
        with contextlib.suppress(FileNotFoundError):
            for left in self._partial.iterdir():
                left.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        self._partial.mkdir(mode=0o700, parents=True, exist_ok=True)
        temp = self._partial / secrets.token_hex(16)
        try:
            yield temp
        finally:
            temp.unlink(missing_ok=True)

    def _appear(self, temp: Path, digest: Digest) -> None:
        self._blobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        temp.replace(self.path(digest))
        fd = os.open(self._blobs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _cloned(target: BinaryIO, source: BinaryIO) -> bool:
    """Make the empty `target` share the extents of `source`; False where the file system cannot."""
    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError:  # another file system, or one without reflinks; what is really wrong with the disk, the copy says
        return False
    return True


def _copy(source: BinaryIO, target: BinaryIO) -> tuple[Digest, int]:
    """Write what `source` still holds to `target`. Returns the digest and size of what was written."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        size += target.write(chunk)
    target.flush()
    return Digest(digest.hexdigest()), size


def _hash(file: BinaryIO) -> tuple[Digest, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return Digest(digest.hexdigest()), size
