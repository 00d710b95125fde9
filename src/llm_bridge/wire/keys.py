"""Credentials in a request, and whether they are the right ones."""

from __future__ import annotations

import hashlib
import hmac

from llm_bridge.errors import NotAuthorised
from llm_bridge.wire.head import Head


def presented(head: Head) -> bytes:
    """The key a request carries in Authorization, x-api-key or api-key; ``b""`` when there is none.

    Raises:
        NotAuthorised: two different keys in one request; whoever checks only one of them is fooled.
    """
    fields = head.fields
    keys = {fields[name] for name in (b"x-api-key", b"api-key") if fields.get(name)}
    authorization = fields.get(b"authorization", b"")
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        keys.add(token.strip())
    elif authorization:
        raise NotAuthorised(name="Bearer")
    if len(keys) > 1:
        raise NotAuthorised(name="Authorization / x-api-key")
    return keys.pop() if keys else b""


class KeyCheck:
    """Is this request allowed in? Compares digests of bytes, so any length and any bytes take the same way."""

    def __init__(self, key: str, variable: str) -> None:
        self._digest = hashlib.sha256(key.encode()).digest() if key else b""
        self._variable = variable

    def __call__(self, head: Head) -> None:
        """Raises NotAuthorised when a key is configured and this is not it."""
        if not self._digest:
            return
        if not hmac.compare_digest(hashlib.sha256(presented(head)).digest(), self._digest):
            raise NotAuthorised(name=self._variable)
