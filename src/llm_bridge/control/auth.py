"""Who may call what: every route declares a role, and a request is judged by the route that was matched for it.

Pure functions over header bytes; nothing here knows FastAPI.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from enum import Enum

from llm_bridge.errors import NotAuthorised
from llm_bridge.settings import variable

Headers = Iterable[tuple[bytes, bytes]]


class Role(Enum):
    """PUBLIC tells nothing about this installation and changes nothing; ADMIN is the rest."""

    PUBLIC = "public"
    ADMIN = "admin"


def authorise(role: Role, headers: Headers, admin_key: str) -> None:
    """Let the request pass, or raise NotAuthorised. Without a configured key every caller is the administrator."""
    if role is Role.PUBLIC or not admin_key:
        return
    offered = credentials(headers)
    if len(offered) != 1 or not _equal(offered.pop(), admin_key.encode()):
        raise NotAuthorised(name=variable("admin_key"))


def credentials(headers: Headers) -> set[bytes]:
    """The different keys a request carries. Two different ones are ambiguous, and so no key at all."""
    found: set[bytes] = set()
    for name, value in headers:
        lowered = name.lower()
        if lowered in (b"x-api-key", b"api-key"):
            found.add(value.strip())
        elif lowered == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            found.add(key.strip() if scheme.lower() == b"bearer" else b"")
    return found


def _equal(offered: bytes, expected: bytes) -> bool:
    """Compares digests of bytes: the time tells nothing, and no byte can make the comparison raise."""
    return hmac.compare_digest(hashlib.sha256(offered).digest(), hashlib.sha256(expected).digest())
