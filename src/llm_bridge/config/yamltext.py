"""Bounded YAML reading, with the place of every value in the text.

A config is a tree of mappings, lists and scalars; nothing else of YAML is accepted. Anchors, aliases, merge keys, tags,
directives and several documents are refused (272 bytes of aliases grow to tens of megabytes), and so are duplicate keys
(two readers would disagree), more than 1 MiB, more than 32 levels and more than 20,000 values. The parser's events are
consumed one by one, so a hostile text is refused where it crosses a limit and its tree is never built.

Plain scalars are read as LiteLLM's YAML reader reads them, except that dates, octal and base-60 numbers stay text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from llm_bridge.config.schema import MAX_BYTES, Path
from llm_bridge.errors import ConfigInvalid

MAX_DEPTH = 32
MAX_NODES = 20_000

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,17})")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,15}")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]{0,30})?\.?[0-9]{1,30}(?:[eE][-+]?[0-9]{1,3})?|[-+]?[0-9]{1,30}\.(?:[eE][-+]?[0-9]{1,3})?"
)
_LONG_MARK = re.compile(r"(?:^|[\s\[{,:])[!&*%]\S{1024}")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(slots=True)
class Node:
    """A value and its place: `start` and `end` are character offsets into the text, `line` is 1-based."""

    kind: Literal["scalar", "list", "map"]
    start: int
    end: int
    line: int
    column: int
    flow: bool = False
    value: Any = None
    items: list[Node] = field(default_factory=list)
    keys: list[Node] = field(default_factory=list)
    """For a map: the keys, in step with `items`."""

    def plain(self) -> Any:
        """The value as dict, list, str, int, float, bool or None."""
        if self.kind == "list":
            return [item.plain() for item in self.items]
        if self.kind == "map":
            return {key.value: item.plain() for key, item in zip(self.keys, self.items, strict=True)}
        return self.value

    def child(self, step: str | int) -> Node | None:
        if self.kind == "list" and isinstance(step, int) and 0 <= step < len(self.items):
            return self.items[step]
        if self.kind == "map":
            return next((item for key, item in zip(self.keys, self.items, strict=True) if key.value == step), None)
        return None


@dataclass(frozen=True, slots=True)
class Tree:
    """A text that was read: its bytes' decoded form and its root value."""

    text: str
    root: Node

    def at(self, path: Path) -> Node | None:
        node: Node | None = self.root
        for step in path:
            node = node.child(step) if node else None
        return node

    def line(self, path: Path) -> int | None:
        """The 1-based line of the value at `path`, or of its nearest parent that exists."""
        node = self.root
        for step in path:
            child = node.child(step)
            if child is None:
                break
            node = child
        return node.line


def read(data: bytes | str) -> Tree:
    """Read a text within the limits.

    Raises:
        ConfigInvalid: not readable, or beyond a limit; the line is named.
    """
    text = _decode(data)
    long_mark = _LONG_MARK.search(text)
    if long_mark:  # refused anyway, but the scanner would take a time that grows with the square of its length
        line = text.count("\n", 0, long_mark.end()) + 1
        raise ConfigInvalid(
            problems=(f"{line}行目: アンカーやタグは使えません", f"line {line}: anchors and tags are not accepted")
        )
    try:
        root = _Builder(text).build()
    except YAMLError as cause:
        raise _unreadable(cause) from None
    except (ValueError, OverflowError) as cause:  # escapes such as "\U00110000" fail inside chr()
        raise ConfigInvalid(problems=(f"YAML として読めません（{cause}）", f"not readable as YAML ({cause})")) from None
    return Tree(text=text, root=root)


def _decode(data: bytes | str) -> str:
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if len(raw) > MAX_BYTES:
        raise ConfigInvalid(
            problems=(f"ファイルが大きすぎます（上限 {MAX_BYTES} バイト）", f"too large (limit {MAX_BYTES} bytes)")
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as cause:
        line = raw[: cause.start].count(b"\n") + 1
        raise ConfigInvalid(problems=(f"{line}行目: UTF-8 ではありません", f"line {line}: not UTF-8")) from None
    return text.removeprefix("\ufeff")


def _unreadable(cause: YAMLError) -> ConfigInvalid:
    mark = getattr(cause, "problem_mark", None) or getattr(cause, "context_mark", None)
    why = str(getattr(cause, "problem", None) or getattr(cause, "reason", None) or "syntax error")[:200]
    if mark is None:
        return ConfigInvalid(problems=(f"YAML として読めません（{why}）", f"not readable as YAML ({why})"))
    line = mark.line + 1
    return ConfigInvalid(
        problems=(f"{line}行目: YAML として読めません（{why}）", f"line {line}: not readable as YAML ({why})")
    )


def _refuse(event: Any, ja: str, en: str) -> ConfigInvalid:
    line = event.start_mark.line + 1
    return ConfigInvalid(problems=(f"{line}行目: {ja}", f"line {line}: {en}"))


class _Builder:
    """Builds the tree from parser events with an explicit stack: the text's nesting never becomes Python's."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._events: Iterator[Any] = YAML(typ="safe", pure=True).parse(text)
        self._stack: list[Node] = []
        self._seen: list[set[str]] = []  # the keys of each open map, in step with the stack
        self._root: Node | None = None
        self._count = 0
        self._documents = 0

    def build(self) -> Node:
        for event in self._events:
            name = type(event).__name__
            if name in ("MappingStartEvent", "SequenceStartEvent", "ScalarEvent"):
                self._open(event, name)
            elif name in ("MappingEndEvent", "SequenceEndEvent"):
                self._close(event)
            elif name == "DocumentStartEvent":
                self._document(event)
            elif name == "AliasEvent":
                raise _refuse(event, "エイリアス（*）は使えません", "aliases (*) are not accepted")
        return self._root or Node("scalar", 0, 0, 1, 0)

    def _document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            raise _refuse(event, "文書は1つだけにしてください", "only one document is accepted")
        if event.version or event.tags:
            raise _refuse(event, "ディレクティブ（%）は使えません", "directives (%) are not accepted")

    def _open(self, event: Any, name: str) -> None:
        if event.anchor is not None:
            raise _refuse(event, "アンカー（&）は使えません", "anchors (&) are not accepted")
        if event.tag is not None:
            raise _refuse(event, "タグ（!）は使えません", "tags (!) are not accepted")
        self._count += 1
        if self._count > MAX_NODES:
            raise _refuse(event, f"値が多すぎます（上限 {MAX_NODES}）", f"too many values (limit {MAX_NODES})")
        node = self._node(event, name)
        self._attach(event, node)
        if node.kind != "scalar":
            if len(self._stack) >= MAX_DEPTH:
                raise _refuse(event, f"入れ子が深すぎます（上限 {MAX_DEPTH}）", f"nested too deep (limit {MAX_DEPTH})")
            self._stack.append(node)
            self._seen.append(set())

    def _node(self, event: Any, name: str) -> Node:
        start = event.start_mark
        place = (start.index, event.end_mark.index, start.line + 1, start.column)
        if name == "ScalarEvent":
            plain = event.style is None or event.style == ""
            return Node("scalar", *place, value=_scalar(event) if plain else _text(event))
        return Node("map" if name == "MappingStartEvent" else "list", *place, flow=bool(event.flow_style))

    def _attach(self, event: Any, node: Node) -> None:
        if not self._stack:
            self._root = node
            return
        parent = self._stack[-1]
        if parent.kind == "map" and len(parent.keys) == len(parent.items):
            self._key(event, parent, node)
        else:
            parent.items.append(node)

    def _key(self, event: Any, parent: Node, node: Node) -> None:
        if node.kind != "scalar":
            raise _refuse(event, "キーには文字列を使ってください", "a key must be a text")
        node.value = str(event.value)
        if node.value == "<<":
            raise _refuse(event, "マージキー（<<）は使えません", "merge keys (<<) are not accepted")
        if node.value in self._seen[-1]:
            raise _refuse(event, f"キー {node.value} が重複しています", f"duplicate key {node.value}")
        self._seen[-1].add(node.value)
        parent.keys.append(node)

    def _close(self, event: Any) -> None:
        node = self._stack.pop()
        self._seen.pop()
        last = node.items[-1].end if node.items else node.start
        # A block collection's own end mark is where the next token starts, past the comments; its content ends earlier.
        node.end = event.end_mark.index if node.flow else max(last, node.keys[-1].end if node.keys else 0)


def _text(event: Any) -> str:
    value = str(event.value)
    if _SURROGATE.search(value):
        raise _refuse(event, "文字として使えない値です", "a surrogate is not a character")
    return value


def _scalar(event: Any) -> Any:
    text = _text(event)
    value = resolve(text)
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        raise _refuse(event, "数が大きすぎます", "the number is too large")
    return value


def resolve(text: str) -> str | int | float | bool | None:
    """The value of a plain (unquoted) scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text.replace("_", ""))
    if _HEX.fullmatch(text):
        return int(text, 16)
    if _FLOAT.fullmatch(text) and not text.isdigit():
        return float(text.replace("_", ""))
    return text
