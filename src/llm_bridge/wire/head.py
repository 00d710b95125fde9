"""A request's head, and the rules it must keep before anyone routes it. Pure: bytes in, an error or nothing out.

llhttp (through httptools) already refuses most malformed framing. What it lets through, and what two servers could read
in two ways, is refused here, because a request that two parsers understand differently is how smuggling begins
(RFC 9112 11.2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from llm_bridge.errors import BadRequest, Lang, UnsupportedMedia, language

MAX_HEAD = 64 * 1024  # bytes of request line and header fields together
MAX_FIELDS = 100

# Fields whose repetition makes a message ambiguous.
SINGLE = frozenset(
    (
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"content-type",
        b"content-encoding",
        b"authorization",
        b"x-api-key",
        b"api-key",
        b"origin",
        b"expect",
    )
)

_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?\Z")
_TARGET = re.compile(rb"/[!-~]*\Z")  # origin-form, visible ASCII only


@dataclass(slots=True)
class Head:
    """A request line and its header fields (names in lower case, repeated fields joined by commas)."""

    method: str
    target: bytes
    fields: dict[bytes, bytes]
    version: str
    keep_alive: bool
    peer: str

    @property
    def path(self) -> str:
        """The path as sent, not decoded: what is authorised is exactly what is matched."""
        return self.target.partition(b"?")[0].decode("ascii")

    @property
    def query(self) -> bytes:
        return self.target.partition(b"?")[2]

    @property
    def has_body(self) -> bool:
        return self.fields.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in self.fields

    @property
    def content_type(self) -> str:
        return self.fields.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")

    def text(self, name: bytes) -> str:
        """A header field as text, or an empty string."""
        return self.fields.get(name, b"").decode("latin-1")

    def lang(self, default: Lang) -> Lang:
        accept = self.fields.get(b"accept-language")
        return language(accept.decode("latin-1"), default) if accept else default


def unquoted(segment: str) -> str:
    """A path segment decoded once, for ids that hold ``/`` or ``:``."""
    return unquote(segment, errors="replace")


def check(head: Head, repeated: bytes) -> None:
    """Refuse what must not be routed.

    Args:
        repeated: the first field of `SINGLE` that came more than once, or ``b""``.

    Raises:
        BadRequest: ambiguous or malformed (400).
        UnsupportedMedia: a compressed body (415): nothing here inflates, so nothing can be made to explode.
    """
    fields = head.fields
    if repeated:
        name = repeated.decode("ascii")
        raise bad(f"{name} ヘッダーが重複しています", f"duplicate {name} header")
    if head.version not in ("1.1", "1.0"):
        raise bad("HTTP/1.1 で送ってください", "send HTTP/1.1")
    host = fields.get(b"host")
    if host is None or not _HOST.match(host):
        raise bad("Host ヘッダーがないか、正しくありません", "the Host header is missing or malformed")
    if not _TARGET.match(head.target):
        raise bad("リクエスト先のパスが正しくありません", "the request target must be an absolute path")
    encoding = fields.get(b"transfer-encoding")
    if encoding is not None and (
        encoding.lower() != b"chunked" or b"content-length" in fields or head.version == "1.0"
    ):
        raise bad("本文の長さの指定が正しくありません", "ambiguous or unsupported message framing")
    if fields.get(b"expect", b"100-continue").lower() != b"100-continue":
        raise bad("Expect ヘッダーに対応していません", "unsupported Expect header")
    if fields.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMedia(ja="圧縮された本文は受け付けません", en="compressed request bodies are not accepted")


def bad(ja: str, en: str) -> BadRequest:
    return BadRequest(ja=ja, en=en)
