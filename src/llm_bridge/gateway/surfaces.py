"""The API surfaces of the gateway: for each path what it is called upstream, how its streams end, how errors look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llm_bridge.errors import BridgeError, Lang, render_anthropic, render_openai
from llm_bridge.wire.sse import ANTHROPIC, OPENAI, RESPONSES, Dialect, event

Render = Callable[[BridgeError, Lang], bytes]


@dataclass(frozen=True, slots=True)
class Surface:
    """One kind of inference call.

    Attributes:
        name: also the key of its field table in `fields.ENGINE_FIELDS`.
        path: at the embedded engine; on the direct lane below the provider's base.
        dialect: how its streams end.
        render: its error envelope.
        direct: providers with an OpenAI wire format have it too.
    """

    name: str
    path: str
    dialect: Dialect = OPENAI
    render: Render = render_openai
    direct: bool = True

    def terminal(self, error: BridgeError, lang: Lang) -> bytes:
        """The event that ends a stream which cannot go on."""
        if self.dialect is OPENAI:
            return event(self.render(error, lang))
        return event(self.render(error, lang), b"error")


CHAT = Surface("chat", "/v1/chat/completions")
COMPLETIONS = Surface("completions", "/v1/completions")
EMBEDDINGS = Surface("embeddings", "/v1/embeddings")
RESPONSES_API = Surface("responses", "/v1/responses", RESPONSES)
RERANK = Surface("rerank", "/v1/rerank", direct=False)
MESSAGES = Surface("messages", "/v1/messages", ANTHROPIC, render_anthropic, direct=False)
COUNT_TOKENS = Surface("count_tokens", "/v1/messages/count_tokens", ANTHROPIC, render_anthropic, direct=False)

SURFACES = {s.path: s for s in (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES_API, RERANK, MESSAGES, COUNT_TOKENS)}
