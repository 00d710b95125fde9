"""Which fields of a call the local engine gets, and within which bounds.

The engine is native code that trusts its input, so it is given a list of known fields, each checked, and nothing else.
Unknown fields are left out silently (clients send many that only some providers know); a known field with a value that
cannot be used is an error that names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from llm_bridge.errors import BadRequest

Check = Callable[[Any], Any]
"""Returns the value to send on, or raises ValueError with what is allowed."""

_INT31 = 2**31 - 1
_SCHEMA_BYTES = 64 * 1024
_REPEAT_MAX = 4096  # a grammar is unrolled by the engine: {"minItems": 1e8} would be a hundred million rules
_BRACES = re.compile(r"\{\s*(\d+)\s*,?\s*(\d*)\s*\}")
_REPEATS = frozenset(("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"))


def number(low: float, high: float) -> Check:
    def check(value: Any) -> Any:
        if type(value) not in (int, float) or not low <= value <= high:
            raise ValueError(f"{low:g} … {high:g}")
        return value

    return check


def integer(low: int, high: int) -> Check:
    def check(value: Any) -> Any:
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{low} … {high}")
        return value

    return check


def flag(value: Any) -> Any:
    if type(value) is not bool:
        raise ValueError("true | false")
    return value


def text(limit: int) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not str or len(value) > limit:
            raise ValueError(f"string ≤ {limit}")
        return value

    return check


def array(limit: int, *, least: int = 0) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not list or not least <= len(value) <= limit:
            raise ValueError(f"array {least} … {limit}")
        return value

    return check


def seed(value: Any) -> Any:
    """OpenAI takes any integer; the engine takes 32 bits."""
    if type(value) is not int:
        raise ValueError("integer")
    return value if value == -1 else value % 2**32


def stop(value: Any) -> Any:
    items = [value] if type(value) is str else value
    if type(items) is not list or len(items) > 16 or not all(type(i) is str and 0 < len(i) <= 256 for i in items):
        raise ValueError("string | array ≤ 16")
    return items


def messages(value: Any) -> Any:
    if type(value) is not list or not 0 < len(value) <= 4096:
        raise ValueError("array 1 … 4096")
    for message in value:
        if type(message) is not dict or type(message.get("role")) is not str:
            raise ValueError('{"role": "…", "content": …}')
        content = message.get("content")
        if type(content) is list:
            for part in content:
                _part(part)
        elif content is not None and type(content) is not str:
            raise ValueError("content: string | array")
    return value


def _part(part: Any) -> None:
    """One part of a message. Media must come in the call: the engine would fetch any URL, from inside the network."""
    if type(part) is not dict or type(part.get("type")) is not str:
        raise ValueError('content: [{"type": "…"}]')
    if part["type"] == "text" and type(part.get("text")) is not str:
        raise ValueError('{"type": "text", "text": "…"}')
    for name in ("image_url", "source", "file_url", "video_url"):
        holder = part.get(name)
        url = holder.get("url") if type(holder) is dict else holder
        if url is not None and (type(url) is not str or not url.startswith("data:")):
            raise ValueError(f"{name}: data:…")


def items(value: Any) -> Any:
    """The input of the responses surface: a text, or items that may hold parts like those of a message."""
    if type(value) is str:
        return value
    if type(value) is not list or not 0 < len(value) <= 4096:
        raise ValueError("string | array 1 … 4096")
    for item in value:
        if type(item) is not dict:
            raise ValueError("[{…}]")
        content = item.get("content")
        for part in content if type(content) is list else ():
            _part(part)
    return value


def prompt(value: Any) -> Any:
    """A text, texts, token ids, or lists of token ids (OpenAI's four forms)."""
    if type(value) is str:
        return value
    if type(value) is not list or not 0 < len(value) <= 2048:
        raise ValueError("string | array 1 … 2048")
    for item in value:
        ids = item if type(item) is list else [item] if type(item) is int else None
        if type(item) is not str and (ids is None or not all(type(i) is int and 0 <= i <= _INT31 for i in ids)):
            raise ValueError("string | [string] | [int] | [[int]]")
    return value


def grammar(value: Any) -> Any:
    text(_SCHEMA_BYTES)(value)
    _bounded_repeats(value)
    return value


def _bounded_repeats(pattern: str) -> None:
    if any(int(number) > _REPEAT_MAX for braces in _BRACES.findall(pattern) for number in braces if number):
        raise ValueError(f"{{m,n}} ≤ {_REPEAT_MAX}")


def schema(value: Any) -> Any:
    """A JSON schema (or an object that holds one): bounded in size and in what it makes the engine unroll."""
    if type(value) is not dict:
        raise ValueError("object")
    if len(orjson.dumps(value)) > _SCHEMA_BYTES:
        raise ValueError(f"≤ {_SCHEMA_BYTES} bytes")
    pending: list[Any] = [value]
    while pending:
        item = pending.pop()
        if type(item) is dict:
            for name, inner in item.items():
                if name in _REPEATS and type(inner) in (int, float) and inner > _REPEAT_MAX:
                    raise ValueError(f"{name} ≤ {_REPEAT_MAX}")
                if name == "pattern" and type(inner) is str:
                    _bounded_repeats(inner)
                pending.append(inner)
        elif type(item) is list:
            pending.extend(item)
    return value


def mapping(limit: int) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not dict or len(value) > limit:
            raise ValueError(f"object ≤ {limit}")
        return value

    return check


def tools(value: Any) -> Any:
    """Chat's form, ``{"type": "function", "function": {"name": …}}``, or the flat one of the newer surfaces."""
    array(128)(value)
    for item in value:
        schema(item)
        described = item.get("function", item)
        if type(described) is not dict or type(described.get("name")) is not str:
            raise ValueError('{"type": "function", "function": {"name": "…"}}')
    return value


def one_of(*allowed: str) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not str or value not in allowed:
            raise ValueError(" | ".join(allowed))
        return value

    return check


def choice(value: Any) -> Any:
    if type(value) not in (str, dict):
        raise ValueError("string | object")
    return value


_TOKENS = integer(-1, 1 << 20)
_SAMPLING: dict[str, Check] = {
    "temperature": number(0, 100),
    "top_p": number(0, 1),
    "top_k": integer(-1, 1 << 20),
    "min_p": number(0, 1),
    "typical_p": number(0, 1),
    "repeat_penalty": number(0, 100),
    "repeat_last_n": integer(-1, 8192),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "seed": seed,
    "stream": flag,
    "stream_options": mapping(8),
    "cache_prompt": flag,
    "logit_bias": mapping(1024),
}
_STRUCTURE: dict[str, Check] = {
    "response_format": schema,
    "json_schema": schema,
    "grammar": grammar,
    "tools": tools,
    "tool_choice": choice,
    "parallel_tool_calls": flag,
    "chat_template_kwargs": mapping(32),
    "reasoning_format": one_of("none", "auto", "deepseek", "deepseek-legacy"),
    "reasoning_effort": text(32),
}
_CHAT = {
    **_SAMPLING,
    **_STRUCTURE,
    "messages": messages,
    "max_tokens": _TOKENS,
    "max_completion_tokens": _TOKENS,
    "stop": stop,
    "n": integer(1, 8),
    "logprobs": flag,
    "top_logprobs": integer(0, 20),
}
_MESSAGES = {
    **_SAMPLING,
    **_STRUCTURE,
    "messages": messages,
    "system": lambda v: v if type(v) is str else array(256)(v),
    "max_tokens": _TOKENS,
    "stop_sequences": stop,
    "thinking": mapping(8),
}

ENGINE_FIELDS: Mapping[str, Mapping[str, Check]] = {
    "chat": _CHAT,
    "completions": {
        **_SAMPLING,
        "prompt": prompt,
        "suffix": text(1 << 20),
        "max_tokens": _TOKENS,
        "stop": stop,
        "n": integer(1, 8),
        "logprobs": integer(0, 20),
        "echo": flag,
        "grammar": grammar,
        "json_schema": schema,
    },
    "embeddings": {"input": prompt, "encoding_format": one_of("float", "base64"), "dimensions": integer(1, 1 << 16)},
    "responses": {
        **_SAMPLING,
        **_STRUCTURE,
        "input": items,
        "instructions": text(1 << 20),
        "max_output_tokens": _TOKENS,
        "text": schema,
        "reasoning": mapping(8),
    },
    "rerank": {
        "query": text(1 << 20),
        "documents": array(1024, least=1),
        "texts": array(1024, least=1),
        "top_n": integer(1, 1024),
    },
    "messages": _MESSAGES,
    "count_tokens": _MESSAGES,
}
_REQUIRED = {
    "chat": ("messages",),
    "completions": ("prompt",),
    "embeddings": ("input",),
    "responses": ("input",),
    "rerank": ("query",),
    "messages": ("messages",),
    "count_tokens": ("messages",),
}


def for_engine(surface: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `document` the engine may see. A null field counts as absent, as it does for OpenAI.

    Raises:
        BadRequest: a required field is missing or a known field cannot be used; `param` names it.
    """
    checks = ENGINE_FIELDS[surface]
    checked: dict[str, Any] = {}
    for name, value in document.items():
        check = checks.get(name)
        if check is None or value is None:
            continue
        try:
            checked[name] = check(value)
        except ValueError as cause:
            raise BadRequest(
                ja=f"{name} が正しくありません（{cause}）", en=f"invalid {name} ({cause})", param=name
            ) from None
    for name in _REQUIRED[surface]:
        if name not in checked:
            raise BadRequest(ja=f"{name} を指定してください", en=f"{name} is required", param=name)
    return checked


def demands_a_call(document: Mapping[str, Any]) -> bool:
    """Whether the call insists on a tool: ``"required"``, a named function, or Anthropic's ``any`` and ``tool``."""
    wanted = document.get("tool_choice")
    if type(wanted) is dict:
        wanted = "required" if wanted.get("type") not in ("auto", "none") else ""
    return wanted in ("required", "any") and bool(document.get("tools"))
