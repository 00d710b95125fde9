"""A config that a client sends back: YAML or JSON text whose masked values stand for the stored secrets."""

from __future__ import annotations

import re
from typing import Any

import orjson

from llm_bridge.config import emit, mask, yamltext

_SURROGATE_PAIR = re.compile(rb"\\u[dD][89abAB]")


def as_stored(data: bytes, stored: Any) -> str:
    """The text `data` with the stored secrets in place of their masked forms; JSON becomes YAML in block style.

    Raises:
        ConfigInvalid: not readable, or a masked value has nothing to stand for.
    """
    tree = yamltext.read(_json_anew(data) if data.lstrip().startswith(b"{") and _SURROGATE_PAIR.search(data) else data)
    document = tree.root.plain()
    values = mask.restore(document, stored)
    if tree.root.flow:
        return emit.document(mask.with_values(document, values))
    result = tree.text
    nodes = [(tree.at(path), value) for path, value in values.items()]
    for node, value in sorted(
        ((n, v) for n, v in nodes if n is not None), key=lambda pair: pair[0].start, reverse=True
    ):
        result = result[: node.start] + emit.scalar(value) + result[node.end :]
    return result


def _json_anew(data: bytes) -> bytes:
    """JSON escapes characters beyond U+FFFF as two halves, which YAML reads as two characters that do not exist."""
    try:
        return orjson.dumps(orjson.loads(data))
    except ValueError:
        return data
