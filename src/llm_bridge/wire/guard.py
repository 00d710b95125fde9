"""Who may speak to a listener at all: Host allow-list, same origin, content type. Before routing, on every bind.

A page in the user's browser can reach loopback. Three checks keep it from doing anything there: a Host that a page's
own name can never equal (DNS rebinding), an Origin that must be ours (CSRF), and a content type that a page cannot send
without asking first (the CORS safelist of the Fetch standard).
"""

from __future__ import annotations

import ipaddress
import socket

from llm_bridge.errors import Forbidden, UnsupportedMedia
from llm_bridge.wire.head import Head, bad

_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
_BODY_TYPES = frozenset(("application/json", "application/yaml"))
_CACHE_MAX = 256


class Guard:
    """The checks for one listener.

    Args:
        hosts: names accepted besides ``localhost``, this machine's own name and IP literals.
    """

    def __init__(self, hosts: tuple[str, ...] = ()) -> None:
        # An IP literal is safe: a page that reached us by it has that literal as its own origin.
        # host.docker.internal is resolved by Docker alone, so no page's name can be it.
        self._names = {"localhost", "host.docker.internal", socket.gethostname().lower(), *hosts}
        self._seen: dict[bytes, bool] = {}

    def check(self, head: Head) -> None:
        """Raises BadRequest (Host), Forbidden (Origin), UnsupportedMedia (content type)."""
        fields = head.fields
        host = fields[b"host"]
        allowed = self._seen.get(host)
        if allowed is None:
            allowed = self._allowed(host)
            if len(self._seen) < _CACHE_MAX:
                self._seen[host] = allowed
        if not allowed:
            name = host.decode("ascii")
            raise bad(
                f"Host {name} は許可されていません（LLM_BRIDGE_ALLOWED_HOSTS で追加できます）",
                f"Host {name} is not allowed (add it to LLM_BRIDGE_ALLOWED_HOSTS)",
            )
        if head.method in _SAFE_METHODS:
            return
        self._same_origin(fields, host)
        if head.content_type not in _BODY_TYPES and (head.has_body or b"content-type" in fields):
            raise UnsupportedMedia(
                ja="Content-Type: application/json を指定してください", en="send Content-Type: application/json"
            )

    @staticmethod
    def _same_origin(fields: dict[bytes, bytes], host: bytes) -> None:
        origin = fields.get(b"origin")
        foreign = origin is not None and origin.lower() not in (b"http://" + host.lower(), b"https://" + host.lower())
        if foreign or fields.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            raise Forbidden(
                ja="他のサイトのページからの操作は受け付けません", en="requests from another site's page are refused"
            )

    def _allowed(self, host: bytes) -> bool:
        name = host.decode("ascii").lower()
        name = name[1 : name.index("]")] if name.startswith("[") else name.partition(":")[0].rstrip(".")
        if name in self._names or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
