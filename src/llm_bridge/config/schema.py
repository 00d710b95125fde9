"""What a config document means: pure checks from plain data to frozen values, no file and no YAML here.

The format is LiteLLM's: ``model_list`` of ``{model_name, litellm_params: {model: "provider/model", …}, model_info}``
beside ``litellm_settings``, ``router_settings`` and ``general_settings``. What is not known here is kept untouched in
`Config.raw`, `ModelEntry.params` and `ModelEntry.info`. A document is accepted whole or refused whole, with
every problem and its line.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from llm_bridge.errors import ConfigInvalid, ProviderModelForm

LOCAL_PROVIDERS = frozenset({"ollama", "ollama_chat"})
SECTIONS = ("litellm_settings", "router_settings", "general_settings")
ENVIRON = "os.environ/"
MAX_BYTES = 1 << 20
"""Of a config as text; the reader refuses more."""
MAX_NAME = 256
MAX_MODELS = 2000
MAX_TIMEOUT = 86_400.0
MAX_PROBLEMS = 20
MAX_TEXT = 8192
MAX_KEY = 4096

Path = tuple[str | int, ...]
LineLookup = Callable[[Path], int | None]
"""The 1-based line of the value at a path such as ``("model_list", 0, "model_name")``, or None when unknown."""

_PROVIDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MODEL = re.compile(r"[A-Za-z0-9@_~][A-Za-z0-9_.:/@+~,=-]*")
_ENVIRON_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9a-fA-F:.]+(?:%[A-Za-z0-9._-]+)?")
_UNAPPLIED = frozenset({"rpm", "tpm", "num_retries", "fallbacks", "extra_headers", "organization"})
_OWN_FIELDS = frozenset({"model", "api_base", "api_key", "timeout", "stream_timeout", "custom_llm_provider"})


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One entry of model_list. `api_key` is as written, so it may be a reference ``os.environ/NAME``."""

    name: str
    provider: str
    model: str
    api_base: str | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout: float | None = None
    """Seconds for a whole request."""
    stream_timeout: float | None = None
    """Seconds for the first byte and between chunks."""
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The other keys of litellm_params, untouched (rpm, tpm, extra_headers, …)."""
    info: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def local(self) -> bool:
        return self.provider in LOCAL_PROVIDERS

    @property
    def provider_model(self) -> str:
        return f"{self.provider}/{self.model}"


@dataclass(frozen=True, slots=True)
class Config:
    """An accepted configuration. `revision` names the file's bytes, `raw` is the whole document as plain data."""

    models: tuple[ModelEntry, ...]
    revision: str
    raw: Mapping[str, Any] = field(repr=False)

    def find(self, name: str) -> ModelEntry | None:
        return next((entry for entry in self.models if entry.name == name), None)

    @property
    def default(self) -> ModelEntry | None:
        return self.models[0] if self.models else None

    @property
    def local(self) -> ModelEntry | None:
        """The one local model, or None."""
        return next((entry for entry in self.models if entry.local), None)

    @property
    def master_key(self) -> str | None:
        """general_settings.master_key as written, so it may be a reference ``os.environ/NAME``; None: not given."""
        key = (self.raw.get("general_settings") or {}).get("master_key")
        return key if isinstance(key, str) else None

    @property
    def unapplied(self) -> tuple[str, ...]:
        """What the file asks for that is kept but has no effect yet, as the user would look for it in the file."""
        found = {f"litellm_params.{key}" for entry in self.models for key in entry.params if key in _UNAPPLIED}
        for section in SECTIONS:
            found |= {f"{section}.{key}" for key in self.raw.get(section) or {} if key in _UNAPPLIED}
        counts = Counter(entry.name for entry in self.models)
        found |= {f"model_name: {name} (×{count})" for name, count in counts.items() if count > 1}
        return tuple(sorted(found))


def split_provider_model(text: str) -> tuple[str, str]:
    """``"ollama/smollm2:135m"`` → ``("ollama", "smollm2:135m")``.

    Raises:
        ProviderModelForm: not ``provider/model`` in the strict grammar (ASCII, at most 256 characters, no ``..``).
    """
    provider, slash, model = text.partition("/")
    if (
        len(text) > MAX_NAME
        or not slash
        or ".." in text
        or not _PROVIDER.fullmatch(provider)
        or not _MODEL.fullmatch(model)
    ):
        raise ProviderModelForm(param="provider_model")
    return provider, model


def name_problem(name: object) -> tuple[str, str] | None:
    """Why `name` cannot be a model_name, as (ja, en), or None when it can."""
    if not isinstance(name, str) or not name.strip():
        return "model_name には空でない文字列を指定してください", "model_name must be a non-empty text"
    if len(name) > MAX_NAME:
        return (
            f"model_name が長すぎます（上限 {MAX_NAME} 文字）",
            f"model_name is too long (limit {MAX_NAME} characters)",
        )
    if _UNPRINTABLE.search(name) or name != name.strip():
        return (
            "model_name に制御文字や前後の空白は使えません",
            "model_name must not contain control characters or outer blanks",
        )
    return None


def parse(document: object, revision: str, lines: LineLookup) -> Config:
    """Validate the whole document.

    Raises:
        ConfigInvalid: with every problem found (at most 20), each with its line where `lines` knows it.
    """
    problems = _Problems(lines)
    models: list[ModelEntry] = []
    if not isinstance(document, dict):
        problems.add((), "設定全体は「キー: 値」の形で書いてください", "the document must be a mapping")
        raise problems.error()
    for section in SECTIONS:
        if not isinstance(document.get(section) or {}, dict):
            problems.add((section,), f"{section} は「キー: 値」の形で書いてください", f"{section} must be a mapping")
    _master_key(document, problems)
    for index, item in enumerate(_model_list(document, problems)):
        entry = _entry(item, ("model_list", index), problems)
        if entry is not None:
            models.append(entry)
    _one_local(document, problems)
    if problems:
        raise problems.error()
    return Config(models=tuple(models), revision=revision, raw=document)


class _Problems:
    """Collects (ja, en) lines; reading goes on after a problem, so that a user sees all of them at once."""

    def __init__(self, lines: LineLookup) -> None:
        self._lines = lines
        self._found: list[tuple[str, str]] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, path: Path, ja: str, en: str) -> None:
        line = self._lines(path)
        self._found.append((f"{line}行目: {ja}", f"line {line}: {en}") if line else (ja, en))

    def error(self) -> ConfigInvalid:
        shown = self._found[:MAX_PROBLEMS]
        more = len(self._found) - len(shown)
        ja = "; ".join(ja for ja, _ in shown) + (f"; ほか {more} 件" if more else "")
        en = "; ".join(en for _, en in shown) + (f"; {more} more" if more else "")
        return ConfigInvalid(problems=(ja, en))


def _model_list(document: Mapping[str, Any], problems: _Problems) -> Sequence[object]:
    path: Path = ("model_list",)
    items = document.get("model_list")
    if not isinstance(items, list) or not items:
        problems.add(
            path, "model_list にモデルを1つ以上書いてください", "model_list must be a list of one model or more"
        )
        return ()
    if len(items) > MAX_MODELS:
        problems.add(path, f"モデルが多すぎます（上限 {MAX_MODELS}）", f"too many models (limit {MAX_MODELS})")
        return ()
    return items


def _entry(item: object, path: Path, problems: _Problems) -> ModelEntry | None:
    if not isinstance(item, dict):
        problems.add(path, "モデルは「model_name: …」の形で書いてください", "a model must be a mapping with model_name")
        return None
    name, params, info = item.get("model_name"), item.get("litellm_params"), item.get("model_info")
    wrong = name_problem(name)
    if wrong:
        problems.add((*path, "model_name"), *wrong)
    if not isinstance(info or {}, dict):
        problems.add(
            (*path, "model_info"), "model_info は「キー: 値」の形で書いてください", "model_info must be a mapping"
        )
    if not isinstance(params, dict):
        problems.add(
            (*path, "litellm_params"),
            "litellm_params に「model: プロバイダー/モデル名」を書いてください",
            "litellm_params must be a mapping with model: provider/model",
        )
        return None
    pair = _provider_model(params, (*path, "litellm_params"), problems)
    values = _own_values(params, (*path, "litellm_params"), problems)
    if wrong or pair is None:
        return None
    rest = {key: value for key, value in params.items() if key not in _OWN_FIELDS}
    return ModelEntry(
        name=str(name),
        provider=pair[0],
        model=pair[1],
        params=rest,
        info=dict(info or {}) if isinstance(info, dict) else {},
        **values,
    )


def _provider_model(params: Mapping[str, Any], path: Path, problems: _Problems) -> tuple[str, str] | None:
    try:
        return split_provider_model(provider_model(params))
    except ProviderModelForm:
        pass
    problems.add(
        (*path, "model"),
        "model はプロバイダー/モデル名 の形式で指定してください（例: ollama/phi3, openai/gpt-4）",
        "model must have the form provider/model (for example ollama/phi3, openai/gpt-4)",
    )
    return None


def _own_values(params: Mapping[str, Any], path: Path, problems: _Problems) -> dict[str, Any]:
    """The fields that the bridge itself uses, checked: api_base, api_key, timeout, stream_timeout."""
    values: dict[str, Any] = {}
    for key in ("timeout", "stream_timeout"):
        value = params.get(key)
        if value is not None and not _seconds(value):
            problems.add((*path, key), f"{key} には秒数を指定してください", f"{key} must be a number of seconds")
        elif value is not None:
            values[key] = float(value)
    for key in ("api_base", "api_key"):
        value = params.get(key)
        if value is None:
            continue
        wrong = _url_problem(value) if key == "api_base" else _key_problem(key, value, MAX_TEXT)
        if wrong:
            problems.add((*path, key), *wrong)
        else:
            values[key] = value
    return values


def _seconds(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and 0 < value <= MAX_TIMEOUT


def _master_key(document: Mapping[str, Any], problems: _Problems) -> None:
    section = document.get("general_settings")
    key = section.get("master_key") if isinstance(section, dict) else None
    wrong = _key_problem("master_key", key, MAX_KEY) if key is not None else None
    if wrong:
        problems.add(("general_settings", "master_key"), *wrong)


def _key_problem(key: str, value: object, limit: int) -> tuple[str, str] | None:
    """A key goes into a header line, which holds Latin-1 without control characters (RFC 9110 5.5)."""
    if not isinstance(value, str) or not value or len(value) > limit:
        return (
            f"{key} には空でない文字列を指定してください（上限 {limit} 文字）",
            f"{key} must be a non-empty text (limit {limit} characters)",
        )
    if value.startswith(ENVIRON):
        return _reference_problem(key, value)
    if _UNPRINTABLE.search(value) or any(character > "\xff" for character in value):
        return (
            f"{key} に制御文字や全角文字は使えません（Latin-1 の文字だけ）",
            f"{key} must be Latin-1 without control characters",
        )
    return None


def _url_problem(value: object) -> tuple[str, str] | None:
    if isinstance(value, str) and value.startswith(ENVIRON):
        return _reference_problem("api_base", value)
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.lower().startswith(("http://", "https://")):
        return (
            "api_base は http:// か https:// で始まる URL にしてください",
            "api_base must be an http:// or https:// URL",
        )
    if not value.isascii() or not value.isprintable() or set(value) & set("?# \\"):
        return (
            "api_base に ?、#、空白、全角文字は使えません",
            "api_base must not hold ?, #, blanks or non-ASCII characters",
        )
    if "@" in value.split("/")[2]:
        return (
            "api_base にユーザー名やパスワードは書けません（キーは api_key に）",
            "api_base must not hold a user or password (a key goes into api_key)",
        )
    if not _has_host(value):
        return "api_base のホスト名かポート（1〜65535）が正しくありません", "api_base: bad host or port (1-65535)"
    return None


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # brackets that do not match, a port that is no number or beyond 65535
        return False
    return bool(_HOST.fullmatch(host)) and port != 0 and not parts.netloc.endswith(":")


def _reference_problem(key: str, value: str) -> tuple[str, str] | None:
    if _ENVIRON_NAME.fullmatch(value.removeprefix(ENVIRON)):
        return None
    return f"{key}: {ENVIRON}変数名 の形で書いてください", f"{key}: write {ENVIRON}NAME"


def _one_local(document: Mapping[str, Any], problems: _Problems) -> None:
    """Exactly one local model is ever active, so a second one in the file is a mistake and never a silent choice."""
    items = document.get("model_list")
    found: list[int] = []
    for index, item in enumerate(items if isinstance(items, list) else ()):
        params = item.get("litellm_params") if isinstance(item, dict) else None
        if isinstance(params, dict) and is_local(params):
            found.append(index)
    for index in found[1:]:
        problems.add(
            ("model_list", index),
            "ローカルモデル（ollama/…）は1つだけにしてください",
            "only one local model (ollama/…) can be configured",
        )


def provider_model(params: Mapping[str, Any]) -> str:
    """The text ``provider/model`` that litellm_params stand for; LiteLLM lets custom_llm_provider name the provider."""
    model, provider = params.get("model"), params.get("custom_llm_provider")
    if not isinstance(model, str):
        return ""
    if isinstance(provider, str) and not model.startswith(f"{provider}/"):
        return f"{provider}/{model}"
    return model


def is_local(params: Mapping[str, Any]) -> bool:
    """Whether litellm_params name a local model."""
    return provider_model(params).partition("/")[0] in LOCAL_PROVIDERS
