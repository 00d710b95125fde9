"""Manifests: which blobs a model name stands for, as JSON below ``manifests/host/namespace/name/tag``."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from llm_bridge.config.generations import sync_folder, write_atomic
from llm_bridge.errors import BadRequest
from llm_bridge.store import names
from llm_bridge.store.blobs import Digest, parse_digest
from llm_bridge.store.names import ModelName

MODEL_LAYER = "application/vnd.ollama.image.model"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
MAX_BYTES = 4 << 20
MAX_LISTED = 10_000


@dataclass(frozen=True, slots=True)
class Layer:
    """A reference to a blob; `size` in bytes."""

    media_type: str
    digest: Digest
    size: int

    def plain(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}


@dataclass(frozen=True, slots=True)
class Manifest:
    config: Layer
    layers: tuple[Layer, ...]

    @property
    def model(self) -> Layer | None:
        """The layer that holds the GGUF."""
        return next((layer for layer in self.layers if layer.media_type == MODEL_LAYER), None)

    @property
    def digests(self) -> frozenset[Digest]:
        return frozenset(layer.digest for layer in (self.config, *self.layers))


class ManifestStore:
    """The manifests of one store root."""

    def __init__(self, root: Path) -> None:
        self._root = root / "manifests"

    def read(self, name: ModelName) -> Manifest | None:
        """The manifest of `name`; None when there is none that can be used."""
        try:
            return parse(_bytes(self._path(name)))
        except (OSError, ValueError):
            return None

    def write(self, name: ModelName, manifest: Manifest) -> None:
        """Write atomically: the model is there when the rename is. Raises OSError."""
        path = self._path(name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": manifest.config.plain(),
            "layers": [layer.plain() for layer in manifest.layers],
        }
        write_atomic(path, orjson.dumps(document))

    def delete(self, name: ModelName) -> bool:
        """Remove the manifest and the folders it leaves empty; False when there was none."""
        path = self._path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        sync_folder(path.parent)
        for folder in list(path.parents)[:3]:
            try:
                folder.rmdir()
            except OSError:
                break
        return True

    def list(self) -> list[tuple[ModelName, float]]:
        """All names with their manifest's modification time (seconds since the epoch)."""
        found: list[tuple[ModelName, float]] = []
        for path in self._files():
            name = names.build(*path.relative_to(self._root).parts)
            with contextlib.suppress(OSError):
                if name is not None:
                    found.append((name, path.stat().st_mtime))
        return found

    def referenced(self) -> frozenset[Digest] | None:
        """Every digest in use, or None when a manifest cannot be read (then nothing may be pruned)."""
        used: set[Digest] = set()
        for path in self._files():
            try:
                used |= parse(_bytes(path)).digests
            except (OSError, ValueError):
                return None
        return frozenset(used)

    def _path(self, name: ModelName) -> Path:
        return self._root / name.path

    def _files(self) -> Iterable[Path]:
        found: set[Path] = set()
        for path in self._root.glob("*/*/*/*"):
            with contextlib.suppress(OSError):
                if stat.S_ISREG(path.lstat().st_mode) and not path.name.startswith("."):
                    found.add(path)
            if len(found) >= MAX_LISTED:
                break
        return sorted(found)


def parse(data: bytes) -> Manifest:
    """JSON → Manifest. Raises ValueError for anything that is not one, the digests included."""
    document = orjson.loads(data)
    if not isinstance(document, dict) or not isinstance(document.get("layers"), list):
        raise ValueError("not a manifest")
    return Manifest(_layer(document.get("config")), tuple(_layer(item) for item in document["layers"]))


def _layer(item: Any) -> Layer:
    if not isinstance(item, dict):
        raise ValueError("not a layer")
    media_type, digest, size = item.get("mediaType"), item.get("digest"), item.get("size")
    if not isinstance(media_type, str) or not isinstance(digest, str) or not isinstance(size, int) or size < 0:
        raise ValueError("not a layer")
    try:
        return Layer(media_type, parse_digest(digest), size)
    except BadRequest as cause:
        raise ValueError(str(cause)) from None


def _bytes(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("not a regular file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError("too large")
    return data
