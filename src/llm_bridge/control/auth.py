"""Who may call what: every route declares a role, and a request is judged by the route that was matched for it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from llm_bridge.settings import variable
from llm_bridge.wire.keys import KeyCheck

Headers = Iterable[tuple[bytes, bytes]]


class Role(Enum):
    """PUBLIC tells nothing about this installation and changes nothing; ADMIN is the rest."""

    PUBLIC = "public"
    ADMIN = "admin"


def authorise(role: Role, headers: Headers, admin_key: str) -> None:
    """Let the request pass, or raise NotAuthorised. Without a configured key every caller is the administrator."""
    if role is Role.ADMIN:
        KeyCheck(admin_key, variable("admin_key"))({name.lower(): value for name, value in headers})
