"""Content by its sha256 below ``blobs/``: a name there means the hash was verified and the bytes are on the disk.

Paths are made from a parsed digest only. Writing happens outside ``blobs/`` (in ``partial/``); the final name appears
by one rename after fsync, so a crash leaves rubbish in ``partial/`` and never a wrong blob.
"""

from __future__ import annotations

import contextlib
import errno
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
            digest, size = hashlib.sha256(), 0
            with temp.open("xb") as file:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    size += file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            found = Digest(digest.hexdigest())
            self._appear(temp, found)
            return found, size

    def publish_open_file(self, file: BinaryIO) -> tuple[Digest, int]:
        """Take an open regular file in: by a hard link to exactly the file that was hashed, else by a copy.

        Raises OSError, also when the file changed while it was read.
        """
        before = os.fstat(file.fileno())
        digest = _hash(file)
        if self.size(digest) is None and not self._link(file, digest):
            file.seek(0)
            copied, _ = self.publish(file)
            if copied != digest:
                raise OSError(errno.EBUSY, "the file changed while it was read")
        after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise OSError(errno.EBUSY, "the file changed while it was read")
        return digest, after.st_size

    def delete(self, digest: Digest) -> None:
        self.path(digest).unlink(missing_ok=True)

    def clean(self) -> None:
        """Remove what an interrupted import left behind."""
        with contextlib.suppress(FileNotFoundError):
            for left in self._partial.iterdir():
                left.unlink(missing_ok=True)

    def _link(self, file: BinaryIO, digest: Digest) -> bool:
        with self._temporary() as temp:
            try:
                _link_descriptor(file.fileno(), temp)
            except OSError:
                return False
            os.fsync(file.fileno())
            self._appear(temp, digest)
            return True

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


def _link_descriptor(fd: int, target: Path) -> None:
    """Link by the descriptor and not by the name: nobody can swap the file between the hash and the link."""
    folder = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:  # only with a folder's descriptor does Python call linkat(), the one that follows the link in /proc
        os.link(str(fd), target, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _hash(file: BinaryIO) -> Digest:
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return Digest(digest.hexdigest())
