"""The one config file: opened, read, edited, kept in generations. Plain blocking calls; use them in a thread.

`current` is what the bridge runs with, and changes only by `open` and `adopt`. What lies on disk may be newer (an edit
that is not applied yet, a change by hand) and is read with `read`. Every change is validated whole before it is
written.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_bridge.config import accepted, first, schema
from llm_bridge.config.generations import Generation, Generations, read_bytes, revision_of
from llm_bridge.config.schema import Config
from llm_bridge.errors import ConfigInvalid, Refused, RevisionMismatch

if TYPE_CHECKING:
    from llm_bridge.config.edit import Editor

log = logging.getLogger(__name__)


class ConfigStore:
    """`path` is config.yaml; `home` (0700) keeps the generations of it."""

    def __init__(self, path: Path, home: Path) -> None:
        self.path = path
        self.warning: str | None = None
        """Why the file on disk is not what runs, after `open`; both languages, for `doctor`, the log and /status."""
        self._home = home
        self._generations = Generations(home / "config-history")
        self._cache = home / "config-history" / "accepted.json"
        self._current: Config | None = None
        self._ours = ""
        self._parsed: dict[bytes, Config] = {}
        self._lock = threading.RLock()

    @property
    def current(self) -> Config:
        if self._current is None:
            raise RuntimeError("ConfigStore.open() comes first")
        return self._current

    def open(self) -> Config:
        """Read the config for a start, and adopt it.

        Writes the first config where there is none. A file that cannot be used is left as it is, and the newest
        readable generation (else the built-in first config) runs instead; `warning` then says so.
        """
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # a mounted folder may belong to someone else
            self._home.chmod(0o700)
        with self._lock, self._generations.turn():
            self.warning = None
            try:
                data = read_bytes(self.path)
            except FileNotFoundError:
                config = self._restore()
            except OSError as cause:
                config = self._fall_back(str(cause))
            else:
                config = self._opened(data)
            self._current, self._ours = config, self.disk_revision()
            return config

    def _opened(self, data: bytes) -> Config:
        try:
            config = self._parse(data)
        except ConfigInvalid as cause:
            return self._fall_back(f"{cause.text('ja')} / {cause.text('en')}")
        with contextlib.suppress(OSError):
            self.path.chmod(0o600)
        self._generations.record(data)
        accepted.save(self._cache, data, config.raw)
        return config

    def _restore(self) -> Config:
        """The file is missing: the newest generation comes back, else the first config is written."""
        found = self._generations.newest(self._usable)
        data = found[1] if found else first.TEXT.encode()
        config = self._parse(data, None if found else first.document())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._generations.commit(self.path, data)
        accepted.save(self._cache, data, config.raw)
        if found and data != first.TEXT.encode():  # else: a first start that was killed, or a file never changed
            self._warn(
                f"{self.path} がないため、最後に使えた設定 {found[0].path} から戻しました",
                f"{self.path} is missing; restored from the last good configuration {found[0].path}",
            )
        return config

    def _fall_back(self, cause: str) -> Config:
        found = self._generations.newest(self._usable)
        source = str(found[0].path) if found else "組み込みの設定 / the built-in configuration"
        self._warn(
            f"{self.path} を使えないため、{source} で起動します。原因: {cause}",
            f"{self.path} cannot be used; starting with {source}. Cause: {cause}",
        )
        if found:
            return self._parse(found[1])
        return self._parse(first.TEXT.encode(), first.document())

    def _warn(self, ja: str, en: str) -> None:
        self.warning = f"{ja} / {en}"
        log.warning("%s", self.warning)

    def _usable(self, data: bytes) -> bool:
        try:
            self._parse(data)
        except ConfigInvalid:
            return False
        return True

    def read(self) -> Config:
        """The file as it is on disk now, without adopting it.

        Raises:
            ConfigInvalid: it cannot be used; the problems name lines.
        """
        return self._parse(self._disk())

    def adopt(self, config: Config) -> None:
        """Make `config` the current one; a change by hand becomes a generation here."""
        with self._lock, self._generations.turn():
            data = self._disk()
            if revision_of(data) == config.revision:
                self._generations.record(data)
                accepted.save(self._cache, data, config.raw)
                self.warning = None
            self._current, self._ours = config, config.revision

    def disk_revision(self) -> str:
        """The revision of the file's bytes as they are now, usable or not; empty when there is no readable file."""
        try:
            return revision_of(read_bytes(self.path))
        except OSError:
            return ""

    def written_here(self, revision: str) -> bool:
        """Whether `revision` is what this process last opened, wrote or adopted (the watcher's question)."""
        return revision == self._ours

    def draft(self, change: Callable[[Editor], None]) -> tuple[Config, Config, str]:
        """What `change` would make of the file on disk: the config before, the config after, its text. Writes nothing.

        Raises:
            ConfigInvalid: the file on disk, or the result, cannot be used. And whatever `change` raises.
        """
        from llm_bridge.config import edit, yamltext

        data = self._disk()
        before = self._parse(data)
        editor = edit.Editor(yamltext.read(data))
        change(editor)
        text = editor.result()
        return before, self._parse(text.encode()), text

    def replace_text(self, text: str, expect: str | None = None) -> Config:
        """Write `text` in place of the file, after validating it whole. Does not adopt.

        Raises:
            RevisionMismatch: `expect` is given and is not the file's revision, or someone wrote in between.
            ConfigInvalid: `text` cannot be used. Refused: the file cannot be written. Nothing was changed.
        """
        with self._lock, self._generations.turn():
            before = self._disk()
            self._expect(before, expect)
            return self._commit(before, text.encode("utf-8", "surrogatepass"))

    def validate(self, text: str) -> Config:
        """What `text` would mean; writes nothing. Raises ConfigInvalid."""
        return self._parse(text.encode("utf-8", "surrogatepass"))

    def history(self) -> list[Generation]:
        """The accepted texts, the newest first."""
        return self._generations.list()

    def _commit(self, before: bytes, data: bytes) -> Config:
        config = self._parse(data)
        if data == before:
            return config
        if not self._usable(before):
            self._generations.set_aside(before)
        self._expect(self._disk(), revision_of(before))
        try:
            self._generations.commit(self.path, data)
        except OSError as cause:
            raise Refused(
                ja=f"設定ファイル {self.path} に書き込めません（{cause.strerror}）。設定は元のままです",
                en=f"The config file {self.path} cannot be written ({cause.strerror}). Nothing was changed",
            ) from cause
        self._ours = config.revision
        accepted.save(self._cache, data, config.raw)
        return config

    def _disk(self) -> bytes:
        try:
            return read_bytes(self.path)
        except FileNotFoundError:
            return b""
        except OSError as cause:
            raise ConfigInvalid(problems=f"{self.path}: {cause.strerror}") from None

    def _expect(self, data: bytes, expect: str | None) -> None:
        found = revision_of(data)
        if expect is not None and expect != found:
            raise RevisionMismatch(revision=found)

    def _parse(self, data: bytes, document: Any | None = None) -> Config:
        """Bytes → Config, by the shortest way: the last result, the given or kept document, the YAML reader."""
        if data in self._parsed:
            return self._parsed[data]
        config = self._from_document(data, document if document is not None else accepted.load(self._cache, data))
        if config is None:
            from llm_bridge.config import yamltext

            tree = yamltext.read(data)
            config = schema.parse(tree.root.plain(), revision_of(data), tree.line)
        self._parsed = {**dict(list(self._parsed.items())[-3:]), data: config}
        return config

    def _from_document(self, data: bytes, document: Any | None) -> Config | None:
        if document is None:
            return None
        try:
            return schema.parse(document, revision_of(data), lambda _path: None)
        except ConfigInvalid:
            return None  # read the text, so that the problems name lines
