"""Secrets in a config document: masked on the way out, put back on the way in.

What counts as a secret is decided by the parameter's name (api_key, …_token, …secret…, aws_…, password, authorization,
every value of extra_headers …) and, for values under harmless names, by their look. References ``os.environ/NAME`` are
no secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llm_bridge.config.schema import ENVIRON, Path
from llm_bridge.errors import ConfigInvalid

MASK = "****"
_SHOW_TAIL_FROM = 16

_NAME = re.compile(
    r"secret|passw|passphrase|credential|authorization|bearer|cookie|signature"
    r"|api_?key|access_?key|private_?key|master_?key|(?:^|[_-])(?:key|token|auth|sas)$|(?<!_per)_token$|^aws_|salt_key",
    re.IGNORECASE,
)
_HARMLESS = re.compile(r"cost_per|_per_token|max_tokens|^(?:default_)?public_key$", re.IGNORECASE)
_ALL_WITHIN = frozenset({"extra_headers", "headers", "default_headers", "environment_variables", "extra_http_headers"})
_LOOK = re.compile(
    r"(?:sk|pk|rk|gsk|xai|hf|ghp|gho|pat|r8|nvapi|sk_live|AKIA|AIza|glpat|xox[bp])[-_]?[A-Za-z0-9_-]{16,}"
    r"|Bearer\s+\S+|Basic\s+\S+|-----BEGIN[\s\S]*",
)
_USERINFO = re.compile(r"(?P<head>[a-zA-Z][a-zA-Z0-9+.-]*://)[^/@\s]+(?=@)")


def masked(document: Any) -> Any:
    """A copy of the document with every secret masked: ``****``, plus the last 4 characters of a long one."""
    return _walk(document, secret=False)


def _walk(value: Any, *, secret: bool) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _walk(item, secret=secret or key.lower() in _ALL_WITHIN or is_secret_name(key))
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_walk(item, secret=secret) for item in value]
    return _masked_value(value, secret=secret)


def is_secret_name(name: str) -> bool:
    return bool(_NAME.search(name)) and not _HARMLESS.search(name)


def _masked_value(value: Any, *, secret: bool) -> Any:
    if value is None or isinstance(value, bool) or value == "":
        return value
    if not isinstance(value, str):
        return MASK if secret else value
    if value.startswith(ENVIRON):
        return value
    if secret or _LOOK.fullmatch(value):
        return mask_text(value)
    return _USERINFO.sub(rf"\g<head>{MASK}", value)


def mask_text(secret: str) -> str:
    return MASK + (secret[-4:] if len(secret) >= _SHOW_TAIL_FROM else "")


def restore(document: Any, stored: Any) -> dict[Path, Any]:
    """The secrets to put back into `document`, where it holds the masked form of what `stored` has: path → value.

    Entries of model_list are matched by model_name, so that they may have been moved; everything else by its place.

    Raises:
        ConfigInvalid: a masked value has no stored secret to stand for.
    """
    found: dict[Path, Any] = {}
    _restore(document, stored, (), found)
    return found


def _restore(value: Any, stored: Any, path: Path, found: dict[Path, Any]) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _restore(item, stored.get(key) if isinstance(stored, Mapping) else None, (*path, key), found)
    elif isinstance(value, list):
        partners = _partners(value, stored) if path == ("model_list",) else stored
        for index, item in enumerate(value):
            other = partners[index] if isinstance(partners, list) and index < len(partners) else None
            _restore(item, other, (*path, index), found)
    elif isinstance(value, str) and MASK in value:
        if _could_mask(stored, value):
            found[path] = stored
        elif re.fullmatch(r"\*{4}.{0,4}", value):
            where = ".".join(map(str, path))
            raise ConfigInvalid(
                problems=(
                    f"{where}: 伏せ字の値に対応する保存済みの値がありません",
                    f"{where}: there is no stored value that this masked one stands for",
                )
            )


def _could_mask(stored: Any, shown: str) -> bool:
    if stored is None or isinstance(stored, Mapping | list | bool):
        return False
    return any(_masked_value(stored, secret=secret) == shown for secret in (True, False))


def _partners(items: list[Any], stored: Any) -> list[Any]:
    """For each new entry the stored one it came from: the n-th of the same name, else the one in the same place."""
    before = stored if isinstance(stored, list) else []
    by_name: dict[Any, list[Any]] = {}
    for item in before:
        by_name.setdefault(_name(item), []).append(item)
    partners: list[Any] = []
    for index, item in enumerate(items):
        same = by_name.get(_name(item)) or []
        partners.append(same.pop(0) if same else (before[index] if index < len(before) else None))
    return partners


def _name(item: Any) -> str:
    return str(item.get("model_name")) if isinstance(item, Mapping) else ""


def with_values(document: Any, values: Mapping[Path, Any], path: Path = ()) -> Any:
    """A copy of the document with the values at the given paths replaced."""
    if path in values:
        return values[path]
    if isinstance(document, Mapping):
        return {key: with_values(item, values, (*path, key)) for key, item in document.items()}
    if isinstance(document, list):
        return [with_values(item, values, (*path, index)) for index, item in enumerate(document)]
    return document
