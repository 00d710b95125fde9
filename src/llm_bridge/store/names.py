"""Model names as users write them, in a strict grammar: what passes can be a path below the store and nothing else.

smollm2:135m                 registry.ollama.ai/library/smollm2/135m
user/model                   registry.ollama.ai/user/model/latest
hf.co/user/repo:Q4_K_M       hf.co/user/repo/Q4_K_M
localhost:5000/a/b:c         localhost:5000/a/b/c
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from llm_bridge.errors import BadRequest

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
MAX_LENGTH = 350

# Every part starts with a letter or digit and so can be neither "." nor ".." nor hidden; no part holds a separator.
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(?::[0-9]{1,5})?")
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True, slots=True)
class ModelName:
    """A whole name; each part has passed its grammar."""

    host: str
    namespace: str
    name: str
    tag: str

    @property
    def short(self) -> str:
        """As users write it: without the default host, namespace and tag."""
        tag = "" if self.tag == DEFAULT_TAG else f":{self.tag}"
        if self.host != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.name}{tag}"
        if self.namespace != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.name}{tag}"
        return f"{self.name}{tag}"

    @property
    def path(self) -> PurePosixPath:
        """The manifest's path relative to ``manifests/``."""
        return PurePosixPath(self.host, self.namespace, self.name, self.tag)


def parse(text: str) -> ModelName:
    """Read a name.

    Raises:
        BadRequest: it is not a model name.
    """
    if len(text) <= MAX_LENGTH and text.isascii():
        head, colon, tag = text.rpartition(":")
        if not colon or "/" in tag:
            head, tag = text, DEFAULT_TAG
        parts = head.split("/")
        if len(parts) <= 3:
            host = parts[0] if len(parts) == 3 else DEFAULT_HOST
            namespace = parts[-2] if len(parts) > 1 else DEFAULT_NAMESPACE
            found = build(host, namespace, parts[-1], tag)
            if found is not None:
                return found
    raise BadRequest(
        ja=f"モデル名 {_shown(text)} は使えません（例: smollm2:135m、hf.co/user/repo:Q4_K_M）",
        en=f"{_shown(text)} is not a model name (for example smollm2:135m, hf.co/user/repo:Q4_K_M)",
    )


def build(host: str, namespace: str, name: str, tag: str) -> ModelName | None:
    """The name made of these parts, or None when one of them is not in its grammar."""
    grammar = ((_HOST, host), (_NAMESPACE, namespace), (_NAME, name), (_TAG, tag))
    if all(pattern.fullmatch(part) for pattern, part in grammar):
        return ModelName(host, namespace, name, tag)
    return None


def _shown(text: str) -> str:
    """A hostile name may be long and hold control characters; an error message does not repeat those."""
    return ascii(text[:80] + ("…" if len(text) > 80 else ""))
