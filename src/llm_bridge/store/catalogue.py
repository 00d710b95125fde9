"""The local models there are: the built-in one and those in the store, in Ollama's layout."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from llm_bridge.errors import BadRequest, DownloadFailed, NotFound, Refused
from llm_bridge.store import gguf, names
from llm_bridge.store.blobs import BlobStore
from llm_bridge.store.gguf import GgufError, Header
from llm_bridge.store.manifests import CONFIG_TYPE, MODEL_LAYER, Layer, Manifest, ManifestStore
from llm_bridge.store.names import ModelName

BUILTIN = "bridge-mini"
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_NO_SUCH = (errno.ENOENT, errno.ENOTDIR)


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model file that is here and whole. `name` is as users write it; `size` in bytes; `modified` since the epoch."""

    name: str
    path: Path
    size: int
    builtin: bool
    digest: str | None
    modified: float


class Catalogue:
    """`root` holds ``blobs/`` and ``manifests/``; `builtin` is the packaged GGUF. Blocking; safe between threads."""

    def __init__(self, root: Path, builtin: Path) -> None:
        self._builtin = builtin
        self._blobs = BlobStore(root)
        self._manifests = ManifestStore(root)
        self._lock = threading.Lock()

    def list(self) -> list[LocalModel]:
        """All models, the built-in one first, then by name."""
        builtin = self._find_builtin()
        stored = [self._stored(name) for name, _ in self._manifests.list() if name.short != BUILTIN]
        known = sorted((model for model in stored if model is not None), key=lambda model: model.name)
        return [*([builtin] if builtin else []), *known]

    def find(self, name: str) -> LocalModel | None:
        """The model called `name` (``tiny`` and ``tiny:latest`` are the same), or None; None too for a bad name."""
        with contextlib.suppress(BadRequest):
            parsed = names.parse(name)
            return self._find_builtin() if parsed.short == BUILTIN else self._stored(parsed)
        return None

    def import_file(self, source: Path, allowed: Path, name: str) -> LocalModel:
        """Take a .gguf into the store under `name`. A relative `source` is below `allowed`.

        Raises:
            BadRequest: a bad name, or a path that is not a regular file below `allowed`. Nothing of it was read.
            NotFound: there is no such file.
            DownloadFailed: not a GGUF that can be used (422), or it could not be stored (507, 500).
        """
        parsed = names.parse(name)
        if parsed.short == BUILTIN:
            raise Refused(ja=f"{BUILTIN} は組み込みのモデルです", en=f"{BUILTIN} is the built-in model")
        with open_below(source, allowed) as file:
            try:
                header = gguf.read_header(file)
            except GgufError as cause:
                raise DownloadFailed(
                    f"Repository is not GGUF or is not compatible with llama.cpp ({cause})", 422
                ) from None
            try:
                with self._lock:
                    self._store(parsed, file, header)
            except OSError as cause:
                raise _not_stored(cause) from cause
        found = self._stored(parsed)
        if found is None:
            raise DownloadFailed(("取り込んだファイルが見つかりません", "the imported file has vanished"), 500)
        return found

    def delete(self, name: str) -> LocalModel:
        """Remove a stored model and the blobs nobody else uses. Returns what it was.

        Raises:
            BadRequest: a bad name. Refused: the built-in model. NotFound: there is none.
        """
        parsed = names.parse(name)
        if parsed.short == BUILTIN:
            raise Refused(
                ja=f"組み込みのモデル {BUILTIN} は削除できません", en=f"The built-in {BUILTIN} cannot be deleted"
            )
        with self._lock:
            found, manifest = self._stored(parsed), self._manifests.read(parsed)
            if found is None or manifest is None:
                raise NotFound(what=(f"モデル {parsed.short}", f"Model {parsed.short}"))
            self._manifests.delete(parsed)
            used = self._manifests.referenced()
            for digest in manifest.digests - used if used is not None else ():
                self._blobs.delete(digest)
        return found

    def _find_builtin(self) -> LocalModel | None:
        with contextlib.suppress(OSError):
            found = self._builtin.stat()
            return LocalModel(BUILTIN, self._builtin, found.st_size, True, None, found.st_mtime)
        return None

    def _stored(self, name: ModelName) -> LocalModel | None:
        manifest = self._manifests.read(name)
        layer = manifest.model if manifest else None
        if layer is None:
            return None
        path = self._blobs.path(layer.digest)
        with contextlib.suppress(OSError):
            found = path.lstat()
            if stat.S_ISREG(found.st_mode) and found.st_size == layer.size:
                return LocalModel(name.short, path, found.st_size, False, str(layer.digest), found.st_mtime)
        return None

    def _store(self, name: ModelName, file: BinaryIO, header: Header) -> None:
        """Blobs first, the manifest last: a name in the catalogue always has its bytes."""
        self._blobs.clean()
        digest, size = self._blobs.publish_open_file(file)
        config_digest, config_size = self._blobs.publish(io.BytesIO(_config_blob(header, str(digest))))
        layers = (Layer(MODEL_LAYER, digest, size),)
        self._manifests.write(name, Manifest(Layer(CONFIG_TYPE, config_digest, config_size), layers))


def open_below(source: Path, allowed: Path) -> BinaryIO:
    """Open a regular file that really lies below `allowed`: links are resolved first, then the way is walked again from
    `allowed`, part by part, without following any.

    Raises:
        BadRequest: it lies elsewhere, or is no regular file (a device or FIFO is never read). NotFound: no such file.
    """
    text = str(source)
    if "\x00" in text or len(text) > 4096 or not source.name:
        raise _not_below(allowed)
    try:
        base = allowed.resolve(strict=True)
        real = (base / source).resolve(strict=True)
        parts = real.relative_to(base).parts
        fd = _walk(base, parts)
    except (ValueError, RuntimeError):
        raise _not_below(allowed) from None
    except OSError as cause:
        if cause.errno in _NO_SUCH and _lexically_below(source, allowed):
            raise NotFound(what=(f"ファイル {source.name!r}", f"File {source.name!r}")) from None
        raise _not_below(allowed) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BadRequest(ja="通常のファイルだけを取り込めます", en="Only a regular file can be imported", param="path")
    return os.fdopen(fd, "rb")


def _walk(base: Path, parts: tuple[str, ...]) -> int:
    """Open ``base/parts…`` from folder to folder, so that a link swapped in meanwhile leads nowhere."""
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for index, part in enumerate(parts):
        kind = _OPEN_FLAGS if index == len(parts) - 1 else _OPEN_FLAGS | os.O_DIRECTORY
        try:
            opened = os.open(part, kind, dir_fd=fd)
        finally:
            os.close(fd)
        fd = opened
    return fd


def _lexically_below(source: Path, allowed: Path) -> bool:
    """Whether the words of the path stay below `allowed`; only then may an answer tell that a file is missing."""
    path = os.path.normpath(allowed / source)
    return Path(path).is_relative_to(os.path.normpath(allowed))


def _not_below(allowed: Path) -> BadRequest:
    return BadRequest(
        ja=f"取り込めるのは {allowed} の中の .gguf ファイルだけです",
        en=f"Only .gguf files below {allowed} can be imported",
        param="path",
    )


def _not_stored(cause: OSError) -> DownloadFailed:
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadFailed(("ディスクの空き容量が足りません", "not enough disk space"), 507)
    why = os.strerror(cause.errno) if cause.errno else str(cause)
    return DownloadFailed((f"保存できません（{why}）", f"cannot be stored ({why})"), 500)


def _config_blob(header: Header, digest: str) -> bytes:
    """The small JSON that Ollama keeps beside a model."""
    document = {
        "model_format": "gguf",
        "model_family": header.architecture,
        "model_families": [header.architecture],
        "model_type": header.size_label,
        "file_type": "unknown" if header.file_type is None else str(header.file_type),
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    }
    return orjson.dumps(document)


def builtin() -> Path:
    """The packaged model file (see tools/bridge_mini for how it is made)."""
    return Path(__file__).parents[1] / "assets" / f"{BUILTIN}.gguf"
