"""Providers that speak OpenAI's wire format: one row each, and the upstream a config entry means."""

from __future__ import annotations

import functools
import ssl
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from llm_bridge.config.schema import ENVIRON, ModelEntry
from llm_bridge.errors import BadRequest, Forbidden, MissingKey
from llm_bridge.settings import Bind, Settings
from llm_bridge.wire.client import Upstream


@dataclass(frozen=True, slots=True)
class Provider:
    """Where a provider's OpenAI endpoints are.

    Attributes:
        base: URL up to and including the version.
        variable: the environment variable that holds its key.
        keyless: works without a key (a server of the user's own).
    """

    base: str
    variable: str
    keyless: bool = False


PROVIDERS = {
    "openai": Provider("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "anthropic": Provider("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
    "gemini": Provider("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    "groq": Provider("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "deepseek": Provider("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "mistral": Provider("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "openrouter": Provider("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "xai": Provider("https://api.x.ai/v1", "XAI_API_KEY"),
    "hosted_vllm": Provider("", "HOSTED_VLLM_API_KEY", keyless=True),
    "lm_studio": Provider("", "LM_STUDIO_API_KEY", keyless=True),
    "llamafile": Provider("", "LLAMAFILE_API_KEY", keyless=True),
}


def upstream_for(entry: ModelEntry, settings: Settings) -> tuple[Upstream, str]:
    """The upstream of an API model and the model name to send to it. Connects at first use.

    Raises:
        BadRequest: the provider has no OpenAI wire format here, or its base URL is missing.
        Forbidden: it is outside, and the settings say offline.
        MissingKey: its key is not set.
    """
    provider = PROVIDERS.get(entry.provider)
    if provider is None:
        known = ", ".join(sorted(PROVIDERS))
        raise BadRequest(
            ja=f"プロバイダー {entry.provider} はこの版では使えません（使えるもの: {known}）",
            en=f"provider {entry.provider} is not available in this version (available: {known})",
            param="model",
        )
    base = _value(entry.api_base or "", settings)
    if not base and entry.provider == "openai":
        base = settings.secret("OPENAI_BASE_URL")
    base = base or provider.base
    reference = entry.api_key or f"{ENVIRON}{provider.variable}"
    key = _value(reference, settings)
    if not key and not (provider.keyless or entry.api_base):
        raise MissingKey(model=entry.name, name=reference.removeprefix(ENVIRON))
    url, host, port = _origin(entry.name, base)
    if settings.offline and not Bind(host, 0).loopback:
        raise Forbidden(
            ja=f"LLM_BRIDGE_OFFLINE=1 のため、外部のモデル {entry.name} は使えません",
            en=f"LLM_BRIDGE_OFFLINE=1: the external model {entry.name} is not used",
            param="model",
        )
    tls = _tls() if url.scheme == "https" else None
    authority = f"[{host}]" if ":" in host else host
    if url.port:
        authority = f"{authority}:{url.port}"
    headers = (("authorization", f"Bearer {key}"),) if key else ()
    return Upstream(host, port, tls=tls, authority=authority, headers=headers, prefix=url.path.rstrip("/")), entry.model


def _value(text: str, settings: Settings) -> str:
    """A value of the config, or what the environment variable holds that it names."""
    return settings.secret(text.removeprefix(ENVIRON)) if text.startswith(ENVIRON) else text


def _origin(name: str, base: str) -> tuple[SplitResult, str, int]:
    """A base URL taken apart: (url, host, port). Its user and password, if any, are not looked at.

    Raises:
        BadRequest: not http(s) with a host and a usable port.
    """
    try:
        url = urlsplit(base)
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        host = url.hostname or ""
    except (ValueError, KeyError):
        host = ""
    if not host:
        raise BadRequest(
            ja=f"モデル {name} の api_base を http:// か https:// で始まるURLにしてください",
            en=f"api_base of model {name} must be a URL that begins with http:// or https://",
            param="model",
        )
    return url, host, port


@functools.cache
def _tls() -> ssl.SSLContext:
    """One context for all: loading the trust store costs 20 ms."""
    return ssl.create_default_context()
