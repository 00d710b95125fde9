"""Plain data → YAML text in block style, in the subset that `yamltext` reads back to the same data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llm_bridge.config.yamltext import resolve

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./@+-]*(?::[A-Za-z0-9_./@+-]+)*")
_UNPRINTABLE = re.compile("[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def scalar(value: Any) -> str:
    """One scalar on one line; texts that a reader could take for something else are quoted."""
    if not isinstance(value, str):
        return json.dumps(value, allow_nan=False)
    if _PLAIN.fullmatch(value) and isinstance(resolve(value), str):
        return value
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + _UNPRINTABLE.sub(_escape, quoted) + '"'


def _escape(match: re.Match[str]) -> str:
    point = ord(match.group())
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"


def block(value: Any, indent: int = 0) -> str:
    """A mapping or list as block lines, each ending in a newline, indented by `indent` spaces."""
    pad = " " * indent
    if isinstance(value, Mapping):
        return "".join(f"{pad}{scalar(str(key))}:{_after_key(item, indent)}" for key, item in value.items())
    return "".join(f"{pad}- {_after_dash(item, indent)}" for item in value)


def document(value: Any) -> str:
    """The whole document as text."""
    return block(value) if isinstance(value, Mapping | list) and value else _empty_or_scalar(value) + "\n"


def _empty_or_scalar(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{}"
    return "[]" if isinstance(value, list) else scalar(value)


def _after_key(value: Any, indent: int) -> str:
    if isinstance(value, Mapping | list) and value:
        return "\n" + block(value, indent + 2)
    return f" {_empty_or_scalar(value)}\n"


def _after_dash(value: Any, indent: int) -> str:
    if isinstance(value, Mapping | list) and value:
        return block(value, indent + 2)[indent + 2 :]
    return _empty_or_scalar(value) + "\n"
