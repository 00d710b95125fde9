"""The accepted config once more as JSON, keyed by the text's whole sha256: a start that finds its text here skips YAML.

Only a shortcut: it is used when the hash of the file's bytes is the one it was made from, its document is validated
like any other, and anything odd about it means reading the YAML.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import orjson

from llm_bridge.config.generations import read_bytes, write_atomic

FORM = 1
"""Raise it when the reading of plain scalars changes."""


def load(path: Path, data: bytes) -> Any | None:
    """The document that `data` was read as before, or None."""
    try:
        kept = orjson.loads(read_bytes(path))
    except (OSError, ValueError):
        return None
    if isinstance(kept, dict) and kept.get("form") == FORM and kept.get("sha256") == hashlib.sha256(data).hexdigest():
        return kept.get("document")
    return None


def save(path: Path, data: bytes, document: Any) -> None:
    """Keep `document` as what `data` says. A failure costs only time at the next start."""
    with contextlib.suppress(OSError, TypeError):
        text = orjson.dumps({"form": FORM, "sha256": hashlib.sha256(data).hexdigest(), "document": document})
        write_atomic(path, text, durable=False)
