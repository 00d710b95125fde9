"""Does this engine really answer? One token from it, before any request is routed to it.

A file can load and still be of no use (broken tokenizer, wrong template, weights of NaN), and an embedding model cannot
chat at all; so the first question is a chat, the second an embedding, and one answer is enough.
"""

from __future__ import annotations

import orjson

from llm_bridge.errors import EngineFailed
from llm_bridge.wire.client import Upstream

_LIMITS = (120.0, 120.0)  # seconds: the first answer reads the weights from disk
_ANSWER_MAX = 4 << 20  # an embedding of a large model is tens of kilobytes
_CHAT = orjson.dumps({"messages": [{"role": "user", "content": "1"}], "max_tokens": 1, "temperature": 0})
_EMBEDDING = orjson.dumps({"input": "1"})


async def self_test(upstream: Upstream) -> None:
    """Returns when the engine has answered.

    Raises:
        EngineFailed: it refused both questions.
        UpstreamFailed, UpstreamTimeout: it broke off, or took too long.
    """
    chat, said = await _ask(upstream, "/v1/chat/completions", _CHAT, "choices")
    if chat:
        return
    embedding, _ = await _ask(upstream, "/v1/embeddings", _EMBEDDING, "data")
    if not embedding:
        raise EngineFailed(reason=(f"自己診断に失敗しました: {said}", f"the self-test failed: {said}"))


async def calls_tools(upstream: Upstream) -> bool:
    """Whether the model's chat template can express tools and calls; True where the engine does not say.

    Without that llama.cpp leaves `tools` out in silence, even if a call is required.
    """
    async with await upstream.send("GET", "/props", b"", limits=_LIMITS) as response:
        text = await response.body(_ANSWER_MAX)
    try:
        caps = orjson.loads(text)["chat_template_caps"]
        return bool(caps["supports_tools"] and caps["supports_tool_calls"])
    except (ValueError, KeyError, TypeError):
        return True


async def _ask(upstream: Upstream, path: str, body: bytes, field: str) -> tuple[bool, str]:
    """Whether the answer to `body` holds a non-empty list `field`, and otherwise what was said instead."""
    async with await upstream.send("POST", path, body, limits=_LIMITS) as response:
        text = await response.body(_ANSWER_MAX)
    try:
        answer = orjson.loads(text)
    except ValueError:
        answer = None
    if response.status == 200 and isinstance(answer, dict) and answer.get(field):
        return True, ""
    error = answer.get("error") if isinstance(answer, dict) else None
    said = error.get("message") if isinstance(error, dict) else None
    return False, f"HTTP {response.status}: {str(said or text[:200].decode(errors='replace'))[:300]}"
