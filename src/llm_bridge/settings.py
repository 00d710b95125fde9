"""Every setting, declared once: name, type, default, what it means in both languages.

This is the only file that reads `os.environ`. `.env` in the working directory (then in the data directory) fills what
the environment leaves unset. `.env.example` and the READMEs' tables follow `SETTINGS`; a test holds them equal.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from llm_bridge.errors import Lang

ENGINES = ("auto", "embedded", "ollama", "llama-server")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_HOME = "~/.llm-bridge"


class SettingError(ValueError):
    """A setting cannot be used: the message names it, its value and what is allowed."""


@dataclass(frozen=True, slots=True)
class Bind:
    """Where a listener listens."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        return self.host == "localhost" or (_is_ip(self.host) and ipaddress.ip_address(self.host).is_loopback)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _bind(text: str) -> Bind:
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError("HOST:PORT")
    if host != "localhost" and not _is_ip(host):
        raise ValueError("HOST:PORT (HOST: localhost / IP)")
    return Bind(host, int(port))


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(" | ".join(allowed))
        return text

    return parse


def _flag(text: str) -> bool:
    if text.lower() not in ("1", "0", "true", "false", "yes", "no", "on", "off"):
        raise ValueError("1 | 0")
    return text.lower() in ("1", "true", "yes", "on")


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise ValueError(f"{low} … {high}")
        return int(text)

    return parse


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip().lower() for word in text.split(",") if word.strip())


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _setting(default: Any, parse: Callable[[str], Any], ja: str, en: str, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"parse": parse, "ja": ja, "en": en, "secret": secret})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Frozen values. A field `name` is the variable `LLM_BRIDGE_NAME`."""

    home: Path = _setting(Path(_HOME), _path, "データの置き場所", "where state and models are kept")
    config: Path | None = _setting(None, _path, "config.yaml の場所（既定: HOME/config.yaml）", "the config file")
    gateway: Bind = _setting(Bind("127.0.0.1", 8000), _bind, "ゲートウェイの待ち受け", "gateway listener")
    admin: Bind = _setting(Bind("127.0.0.1", 9999), _bind, "管理APIの待ち受け", "management listener")
    engine: str = _setting("auto", _choice(*ENGINES), "ローカルエンジン", "local engine")
    api_key: str = _setting("", str, "推論用のキー", "key for the gateway", secret=True)
    admin_key: str = _setting("", str, "管理API用のキー", "key for the management API", secret=True)
    allow_open: bool = _setting(False, _flag, "キーなしでの外部公開を許す", "allow a public bind without keys")
    allowed_hosts: tuple[str, ...] = _setting(
        (), _words, "受け付ける Host 名（カンマ区切り）", "more Host names to accept, comma separated"
    )
    lang: str = _setting("ja", _choice("ja", "en"), "文章の既定の言語", "default language of texts")
    log_level: str = _setting("INFO", _choice(*LOG_LEVELS), "ログの詳しさ", "log level")
    offline: bool = _setting(False, _flag, "外部に接続しない", "never connect to the outside")
    import_dir: Path | None = _setting(
        None, _path, "取り込む .gguf の置き場所（既定: HOME/import）", "folder that .gguf files are imported from"
    )
    context: int = _setting(0, _number(0, 1 << 20), "文脈長（0: モデルの値、最大 8192）", "context, 0: model's, ≤ 8192")
    parallel: int = _setting(4, _number(1, 64), "同時に生成する数", "sequences decoded at once")
    threads: int = _setting(0, _number(0, 512), "生成スレッド数（0: 自動）", "threads, 0: automatic")
    grace: int = _setting(30, _number(0, 3600), "停止時に待つ秒数", "seconds running requests get at stop")
    max_body: int = _setting(32 << 20, _number(1024, 1 << 30), "リクエスト本文の上限バイト", "largest request body")
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Everything else that was set, for `os.environ/NAME` in the config and the variables honoured as they are."""

    @property
    def config_path(self) -> Path:
        return self.config or self.home / "config.yaml"

    @property
    def imports(self) -> Path:
        return self.import_dir or self.home / "import"

    @property
    def language(self) -> Lang:
        return "en" if self.lang == "en" else "ja"

    def secrets(self) -> tuple[str, ...]:
        """Every value that must never be shown: our own keys, and whatever is named like a key or token."""
        named = (v for n, v in self.environ.items() if n.upper().endswith(("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")))
        return tuple(value for value in (self.api_key, self.admin_key, *named) if value)

    def secret(self, name: str) -> str:
        """The value of an environment variable the config refers to, or an empty string."""
        return self.environ.get(name, "")


SETTINGS = tuple(f for f in fields(Settings) if "parse" in f.metadata)


def variable(name: str) -> str:
    return f"LLM_BRIDGE_{name.upper()}"


def _fill(env: dict[str, str], folder: Path) -> None:
    """Add what the folder's `.env` says and `env` does not."""
    for name, value in dotenv_values(folder / ".env", interpolate=False).items():
        if value is not None:
            env.setdefault(name, value)


def load(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
    """Read the environment and `.env`, the environment first.

    Raises:
        SettingError: a value cannot be used, or a public bind has no keys.
    """
    env = dict(os.environ if environ is None else environ)
    _fill(env, cwd or Path.cwd())
    _fill(env, _path(env.get(variable("home")) or _HOME))  # where the first .env may have put it
    values: dict[str, Any] = {"home": _path(_HOME)}
    for item in SETTINGS:
        text = env.get(variable(item.name), "")
        if text == "":
            continue
        try:
            values[item.name] = item.metadata["parse"](text)
        except ValueError as cause:
            shown = "…" if item.metadata["secret"] else repr(text)
            raise SettingError(f"{variable(item.name)}={shown} は使えません / cannot be used: {cause}") from None
    settings = Settings(**values, environ=env)
    if not settings.api_key and env.get("LITELLM_MASTER_KEY"):
        settings = replace(settings, api_key=env["LITELLM_MASTER_KEY"])
    _refuse_open_bind(settings)
    return settings


def _refuse_open_bind(settings: Settings) -> None:
    """A public bind needs both keys unless LLM_BRIDGE_ALLOW_OPEN says otherwise (hundreds of thousands of open servers
    of the neighbours are why)."""
    if settings.allow_open or (settings.gateway.loopback and settings.admin.loopback):
        return
    missing = [variable(key) for key in ("api_key", "admin_key") if not getattr(settings, key)]
    if missing:
        raise SettingError(
            f"外部に公開するには {' と '.join(missing)} を設定してください（または {variable('allow_open')}=1）"
            f" / a public bind needs {' and '.join(missing)} (or {variable('allow_open')}=1)"
        )
