"""A change of the configuration before it is written: what it would mean, and how to write it.

A switch has to know the new configuration before it commits to it, because the engine is started and tested in between.
All functions here block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_bridge.config.generations import read_bytes
from llm_bridge.config.schema import Config
from llm_bridge.config.store import ConfigStore
from llm_bridge.errors import NotFound, RevisionMismatch

if TYPE_CHECKING:  # the YAML editor costs a tenth of a second to import, and a start that changes nothing needs none
    from llm_bridge.config.edit import Editor

Edit = Callable[["Editor"], None]


@dataclass(frozen=True, slots=True)
class Draft:
    """`before` is what is on disk, `after` what will be; `text` is None when the file already says it."""

    before: frozenset[str]
    after: Config
    base: str
    text: str | None

    def write(self, store: ConfigStore) -> Config:
        """Write and return the configuration as written; RevisionMismatch if the file changed since the draft."""
        return self.after if self.text is None else store.replace_text(self.text, self.base)


def edited(store: ConfigStore, edit: Edit) -> Draft:
    """The file on disk with `edit` applied. Raises ConfigInvalid, and whatever `edit` raises."""
    before, after, text = store.draft(edit)
    return Draft(_names(before), after, before.revision, text)


def replaced(store: ConfigStore, text: str, expect: str | None) -> Draft:
    """The file replaced by `text`. Raises ConfigInvalid, RevisionMismatch."""
    base = _expected(store, expect)
    return Draft(_names(store.current), store.validate(text), base, text)


def rolled_back(store: ConfigStore, revision: str, expect: str | None) -> Draft:
    """The file as it was at `revision`. Raises NotFound, ConfigInvalid, RevisionMismatch."""
    _expected(store, expect)
    for generation in store.history():
        if generation.revision == revision:
            return replaced(store, read_bytes(generation.path).decode(), expect)
    raise NotFound(what=(f"設定の版 {revision}", f"configuration revision {revision}"))


def reread(store: ConfigStore) -> Draft:
    """The file as somebody left it. Raises ConfigInvalid."""
    after = store.read()
    return Draft(_names(store.current), after, after.revision, None)


def _expected(store: ConfigStore, expect: str | None) -> str:
    base = store.disk_revision()
    if expect is not None and expect != base:
        raise RevisionMismatch(revision=base)
    return base


def _names(config: Config) -> frozenset[str]:
    return frozenset(entry.name for entry in config.models)
