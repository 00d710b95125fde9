"""Edits of a config text that leave every other byte of it alone: comments, blank lines, quotes, order.

An edit is made twice: on the plain data, where it is simple and right, and on the text, by cutting and inserting whole
lines at the places that `yamltext` found. Afterwards the text is read again; should it not say what the data says (in
unusual layouts), the model list, and if need be the document, is written anew from the data. So the meaning of an edit
never depends on the layout; only how much of the layout survives does.

Comment lines are never deleted. Those directly above an entry travel with it when it moves.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

from llm_bridge.config import emit, schema, yamltext
from llm_bridge.config.schema import is_local, split_provider_model
from llm_bridge.config.yamltext import Node, Tree
from llm_bridge.errors import ConfigInvalid

_DASH = re.compile(r" *-(?:\s|$)")


class Editor:
    """Collects changes to one document; `result` gives the new text."""

    def __init__(self, tree: Tree) -> None:
        self._text = tree.text
        self._data: dict[str, Any] = _mapping(tree)

    def put_model(self, name: str, provider_model: str, *, first: bool = False) -> tuple[str, ...]:
        """Add `name`, or replace all its entries. Putting a local model removes the other local models.

        An entry whose provider stays keeps its other parameters, comments and place. Returns the names of the local
        models that were removed.

        Raises:
            ProviderModelForm: `provider_model` is not ``provider/model``.
        """
        provider, _ = split_provider_model(provider_model)
        removed = (
            [other for other in self._local_names() if other != name] if is_local({"model": provider_model}) else []
        )
        same = self._indexes(name)
        if len(same) == 1 and self._provider(same[0]) == provider:
            self._set_model(same[0], provider_model)
            if first:
                self.move_first(name)
        else:
            place = 0 if first else (same[0] if same else len(self._items()))
            self._insert(place, {"model_name": name, "litellm_params": {"model": provider_model}})
            self._remove([index for index in self._indexes(name) if index != place])
        for other in removed:
            self._remove([index for index in self._indexes(other) if is_local(self._params(index))])
        return tuple(removed)

    def remove_model(self, name: str) -> bool:
        """Remove all entries called `name`; False when there is none."""
        found = self._indexes(name)
        self._remove(found)
        return bool(found)

    def move_first(self, name: str) -> bool:
        """Make `name` the first entry and so the default; False when there is no such entry."""
        found = self._indexes(name)
        if not found:
            return False
        if found[0] > 0:
            self._move_first(found[0])
        return True

    def result(self) -> str:
        """The new text, certain to read as the edited data."""
        for text in (self._text, self._with_list_anew(), emit.document(self._data)):
            if text is not None and _reads_as(text, self._data):
                return text
        raise ConfigInvalid(problems=("編集後の設定を書き出せません", "the edited configuration cannot be written"))

    # On the data.

    def _items(self) -> list[Any]:
        items = self._data.get("model_list")
        if not isinstance(items, list):
            items = self._data["model_list"] = []
        return items

    def _indexes(self, name: str) -> list[int]:
        return [i for i, item in enumerate(self._items()) if isinstance(item, dict) and item.get("model_name") == name]

    def _params(self, index: int) -> dict[str, Any]:
        item = self._items()[index]
        params = item.get("litellm_params") if isinstance(item, dict) else None
        return params if isinstance(params, dict) else {}

    def _provider(self, index: int) -> str:
        return schema.provider_model(self._params(index)).partition("/")[0]

    def _local_names(self) -> list[str]:
        local = [item for index, item in enumerate(self._items()) if is_local(self._params(index))]
        return list(dict.fromkeys(str(item.get("model_name")) for item in local))

    # On both. The text's part gives up silently: `result` compares.

    def _set_model(self, index: int, provider_model: str) -> None:
        """Name the model with its provider; a provider beside it says nothing any more, or something else."""
        params, path = self._params(index), ("model_list", index, "litellm_params")
        params["model"] = provider_model
        node = self._node(*path, "model")
        if node is not None and node.kind == "scalar":
            self._text = self._text[: node.start] + emit.scalar(provider_model) + self._text[node.end :]
        if "custom_llm_provider" in params:
            del params["custom_llm_provider"]
            self._cut_key(self._node(*path), "custom_llm_provider")

    def _cut_key(self, node: Node | None, key: str) -> None:
        """Take a key and its scalar out of a map: its line, or in a flow map what lies between it and its neighbour."""
        place = next((i for i, found in enumerate(node.keys) if found.value == key), None) if node else None
        if node is None or place is None:
            return
        found, end = node.keys[place], max(node.items[place].end, node.keys[place].end)
        if not node.flow:
            start, stop = self._text.rfind("\n", 0, found.start) + 1, self._text.find("\n", end) + 1
            stop = stop or len(self._text)
        elif place:
            start, stop = node.items[place - 1].end, end
        else:
            start, stop = found.start, node.keys[1].start if len(node.keys) > 1 else end
        self._text = self._text[:start] + self._text[stop:]

    def _insert(self, index: int, item: dict[str, Any]) -> None:
        self._items().insert(index, item)
        layout = self._layout()
        if layout is not None and layout.count:
            layout.insert(index, emit.block([item], layout.column))
            self._text = layout.text()

    def _remove(self, indexes: Iterable[int]) -> None:
        for index in sorted(indexes, reverse=True):
            del self._items()[index]
            layout = self._layout()
            if layout is not None:
                layout.cut(index)
                self._text = layout.text()

    def _move_first(self, index: int) -> None:
        self._items().insert(0, self._items().pop(index))
        layout = self._layout()
        if layout is not None:
            layout.insert(0, layout.cut(index, comments=True))
            self._text = layout.text()

    def _node(self, *path: str | int) -> Node | None:
        try:
            return yamltext.read(self._text).at(path)
        except ConfigInvalid:
            return None

    def _layout(self) -> _Layout | None:
        node = self._node("model_list")
        if node is None or node.kind != "list" or node.flow:
            return None
        return _Layout(self._text, node)

    def _with_list_anew(self) -> str | None:
        """The text with only model_list written anew, where it is a key of a block mapping."""
        try:
            root = yamltext.read(self._text).root
        except ConfigInvalid:
            return None
        anew = emit.block({"model_list": self._items()}) if self._items() else "model_list: []\n"
        if root.flow or (root.kind != "map" and root.value is not None):
            return None
        for key, value in zip(root.keys, root.items, strict=True):
            if key.value == "model_list":
                rest = self._text[max(value.end, key.end) :].partition("\n")[2]
                return self._text[: key.start] + anew + rest
        return (self._text if self._text.endswith("\n") or not self._text else self._text + "\n") + anew


class _Layout:
    """The lines of a block list, and where each of its items lies in them (0-based lines, end exclusive)."""

    def __init__(self, text: str, node: Node) -> None:
        self._lines = re.findall(r"[^\n]*\n|[^\n]+", text)
        self._starts = [0, *accumulate(len(line) for line in self._lines)]
        self.column = node.column
        self._spans = [self._span(item) for item in node.items]
        self.count = len(self._spans)

    def text(self) -> str:
        return "".join(self._lines)

    def insert(self, index: int, lines: str) -> None:
        """Put `lines` before item `index`, or after the last item."""
        at = self._spans[index][0] if index < self.count else self._spans[-1][1]
        if at and not self._lines[at - 1].endswith("\n"):
            self._lines[at - 1] += "\n"
        self._lines.insert(at, lines)

    def cut(self, index: int, *, comments: bool = False) -> str:
        """Take the lines of item `index` out, with the comment lines directly above it if asked."""
        start, end = self._spans[index]
        if comments:
            start = self._first_comment(index)
        taken = "".join(self._lines[start:end])
        del self._lines[start:end]
        return taken if taken.endswith("\n") else taken + "\n"

    def _span(self, item: Node) -> tuple[int, int]:
        start = first = self._line_at(item.start)
        while start > 0 and self._column_of_dash(start) != self.column:
            start -= 1
        last = self._line_at(max(item.end, item.start + 1) - 1)
        while last > first and not self._lines[last].strip():
            last -= 1
        return start, last + 1

    def _line_at(self, offset: int) -> int:
        return max(0, min(bisect_right(self._starts, offset) - 1, len(self._lines) - 1))

    def _column_of_dash(self, line: int) -> int:
        match = _DASH.match(self._lines[line])
        return self._lines[line].index("-") if match else -1

    def _first_comment(self, index: int) -> int:
        """The first of the comment lines that belong to item `index`; those above the first item describe the list."""
        line = self._spans[index][0]
        floor = self._spans[index - 1][1] if index else line
        while line > floor and self._lines[line - 1].startswith(" " * self.column + "#"):
            line -= 1
        return line


def _mapping(tree: Tree) -> dict[str, Any]:
    data = tree.root.plain()
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigInvalid(problems=("設定全体は「キー: 値」の形で書いてください", "the document must be a mapping"))
    return data


def _reads_as(text: str, data: Mapping[str, Any]) -> bool:
    try:
        return bool(yamltext.read(text).root.plain() == data)
    except ConfigInvalid:
        return False
