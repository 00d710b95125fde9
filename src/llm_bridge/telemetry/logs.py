"""The log: one line per event on stderr, JSON where a machine reads, plain where a person does, never a secret.

Redaction and escaping happen here, at the sink, so that no caller can forget them.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TextIO

import orjson

# What a terminal or a line-based reader would take for a line end or a command, beyond what JSON escapes by itself.
_BREAKS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_SHORTEST_SECRET = 6  # shorter values would black out ordinary text
_MASK = "****"


def configure(level: str, secrets: Iterable[str], stream: TextIO | None = None) -> None:
    """Send every logger of the process to `stream` (default stderr).

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
        secrets: values that must never appear.
    """
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    handler.setFormatter(LineFormatter(secrets, plain=out.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(max(logging.getLevelName(level), logging.WARNING))


class LineFormatter(logging.Formatter):
    """One record, one line."""

    def __init__(self, secrets: Iterable[str], *, plain: bool) -> None:
        super().__init__()
        known = sorted({s for s in secrets if len(s) >= _SHORTEST_SECRET}, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, known))) if known else None
        self._plain = plain

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        if self._secrets is not None:
            message = self._secrets.sub(_MASK, message)
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        message = _BREAKS.sub(lambda match: f"\\x{ord(match[0]):02x}" if match[0] != "\n" else "\\n", message)
        if self._plain:
            return f"{when[11:19]} {record.levelname.lower():7} {message}"
        return orjson.dumps(
            {"time": when, "level": record.levelname, "logger": record.name, "message": message}
        ).decode()
