"""Credentials in a request, and whether they are the right ones."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from llm_bridge.errors import NotAuthorised

Fields = Mapping[bytes, bytes]
"""Header fields, names in lower case."""


def presented(fields: Fields) -> bytes | None:
    """The key a request carries in Authorization, x-api-key or api-key: ``b""`` when there is none, None when there are
    two different ones (whoever checks only one of them is fooled) or one in an unknown form."""
    keys = {fields[name] for name in (b"x-api-key", b"api-key") if fields.get(name)}
    authorization = fields.get(b"authorization", b"")
    scheme, _, token = authorization.partition(b" ")
    if authorization:
        keys.add(token.strip() if scheme.lower() == b"bearer" else b"")
    if len(keys) > 1 or keys == {b""}:
        return None
    return keys.pop() if keys else b""


class KeyCheck:
    """Is this request allowed in? Compares digests of bytes, so any length and any bytes take the same way."""

    def __init__(self, key: str, variable: str) -> None:
        self._digest = hashlib.sha256(key.encode()).digest() if key else b""
        self._variable = variable

    def __call__(self, fields: Fields) -> None:
        """Raises NotAuthorised when a key is configured and this is not it."""
        if not self._digest:
            return
        offered = hashlib.sha256(presented(fields) or b"").digest()
        if not hmac.compare_digest(offered, self._digest):
            raise NotAuthorised(name=self._variable)
