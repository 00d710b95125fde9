"""What every verb prints with: exit codes, the two languages, colour, tables that line up with wide characters."""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol, TextIO

from llm_bridge.errors import Lang
from llm_bridge.settings import Settings, variable

# A model's or a server's text must not drive the terminal: no control characters but newline and tab.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    AUTH = 5
    NO_SPACE = 6
    INTERRUPTED = 130


_BY_STATUS = {401: Exit.AUTH, 403: Exit.AUTH, 404: Exit.NOT_FOUND, 507: Exit.NO_SPACE}
_BY_CODE = {"out_of_memory": Exit.NO_SPACE, "disk_full": Exit.NO_SPACE}


def exit_for(status: int, code: object = None) -> Exit:
    """The exit code for an HTTP status and the error code in the body."""
    return _BY_CODE.get(code if isinstance(code, str) else "", _BY_STATUS.get(status, Exit.FAILED))


class CliError(Exception):
    """One line for stderr and the exit code that goes with it."""

    def __init__(self, line: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(line)
        self.code = code


class Subparsers(Protocol):
    """What a group of verbs needs of argparse's `add_subparsers` result."""

    def add_parser(self, name: str, *, help: str, description: str | None = ...) -> Any: ...


@dataclass(frozen=True, slots=True)
class Console:
    lang: Lang
    colour: bool

    @classmethod
    def of(cls, settings: Settings) -> Console:
        return cls(language(settings), not settings.environ.get("NO_COLOR") and sys.stdout.isatty())

    def text(self, ja: str, en: str) -> str:
        return ja if self.lang == "ja" else en

    def paint(self, text: str, sgr: str) -> str:
        return f"\x1b[{sgr}m{text}\x1b[0m" if self.colour else text

    def json(self, value: object) -> None:
        print(json.dumps(value, ensure_ascii=False, indent=2))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        lines = layout([header, *rows])
        print(self.paint(lines[0], "1"))
        for line in lines[1:]:
            print(line)

    def stream(self, text: str) -> None:
        """A piece of a model's answer, as it is in a pipe and harmless on a terminal."""
        sys.stdout.write(clean(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()


def language(settings: Settings) -> Lang:
    """LLM_BRIDGE_LANG, else the locale, else the setting's default."""
    env = settings.environ
    if not env.get(variable("lang")):
        for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
            locale = env.get(name, "").partition(".")[0]
            if locale:
                break
        if locale not in ("", "C", "POSIX"):
            return "ja" if locale.startswith("ja") else "en"
    return settings.language


def clean(text: str) -> str:
    return _CONTROL.sub("", text)


def one_line(text: str) -> str:
    return " ".join(_CONTROL.sub(" ", text).split())


def width(text: str) -> int:
    """Columns that `text` takes on a terminal (UAX 11: wide and fullwidth take two, combining marks none)."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def layout(rows: Sequence[Sequence[str]], gap: int = 2) -> list[str]:
    """Rows as aligned lines, the last column unpadded."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    return [
        "".join(cell + " " * (w - width(cell) + gap) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def prepare(*streams: TextIO) -> None:
    """Japanese must print everywhere: an ASCII stream becomes UTF-8, and what still does not fit is replaced."""
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"
            reconfigure(encoding="utf-8" if ascii_only else stream.encoding, errors="replace")


def reader_left() -> None:
    """The reader of our output (`| head`) is gone: let the interpreter's last flush go nowhere instead of failing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
