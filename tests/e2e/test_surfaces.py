"""Every surface of the gateway on the real engine, through real clients where there is one."""

import base64
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest

from tests.support.bridge import Bridge, Reply, call, running
from tests.support.tiny_gguf import write_tiny_gguf

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "port": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["name", "port"],
    "additionalProperties": False,
}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_port",
        "description": "port of a service",
        "parameters": {
            "type": "object",
            "properties": {"service": {"type": "string", "enum": ["gateway", "management"]}},
            "required": ["service"],
        },
    },
}


@pytest.fixture
def client(bridge: Bridge) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{bridge.gateway}/v1", api_key="unused", max_retries=0)


def post(bridge: Bridge, path: str, body: object, **headers: str) -> Reply:
    return call(f"{bridge.gateway}{path}", body, headers=headers)


def events(reply: Reply) -> list[tuple[str, str]]:
    """(event, data) of a stream."""
    found = []
    for block in reply.body.decode().strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((lines.get("event", ""), lines["data"]))
    return found


def test_chat_with_the_openai_client(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="bridge-mini", messages=[{"role": "user", "content": "ポート番号は？"}], temperature=0, max_tokens=200
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0
    assert answer.model == "bridge-mini"


def test_a_stream_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "hello"}],
        temperature=0,
        max_tokens=30,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


def test_json_schema_is_kept(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="bridge-mini",
        messages=[{"role": "user", "content": "port?"}],
        max_tokens=200,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA, "strict": True}},
    )
    document = orjson.loads(answer.choices[0].message.content or "")
    assert set(document) == {"name", "port"}
    assert 0 <= document["port"] <= 9


def test_tools_are_called_streaming_and_not(tmp_path: Path) -> None:
    """A model that knows tools calls them, on each surface; the arguments keep the tool's schema."""
    with running(tmp_path) as bridge:
        write_tiny_gguf(bridge.home / "import" / "caller.gguf", name="caller", calls=True)
        call(f"{bridge.admin}/models/import", {"path": "caller.gguf", "name": "caller"})
        used = call(f"{bridge.admin}/models/manage", {"model_name": "caller", "provider_model": "ollama/caller"})
        assert used.status == 200, used.body
        body = {"messages": [{"role": "user", "content": "Which port?"}], "tools": [TOOL], "tool_choice": "required"}
        reply = post(bridge, "/v1/chat/completions", {**body, "max_tokens": 300, "parallel_tool_calls": False})
        assert reply.status == 200, reply.body
        choice = reply.json["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        check_call(choice["message"]["tool_calls"][0]["function"])

        client = openai.OpenAI(base_url=f"{bridge.gateway}/v1", api_key="unused", max_retries=0)
        name = arguments = ""
        stream = client.chat.completions.create(
            model="caller",
            messages=[{"role": "user", "content": "Which port?"}],
            tools=[TOOL],
            stream=True,
            tool_choice="required",
            parallel_tool_calls=False,
            max_tokens=300,
        )
        for chunk in stream:
            for part in chunk.choices[0].delta.tool_calls or [] if chunk.choices else []:
                name += (part.function and part.function.name) or ""
                arguments += (part.function and part.function.arguments) or ""
        check_call({"name": name, "arguments": arguments})


def check_call(called: dict[str, str]) -> None:
    assert called["name"] == "get_port"
    assert orjson.loads(called["arguments"])["service"] in ("gateway", "management")


def test_a_model_that_knows_no_tools_says_so(bridge: Bridge) -> None:
    """llama.cpp would leave the tools out and answer with free text, although a call is required."""
    for wanted in ("required", {"type": "function", "function": {"name": "get_port"}}):
        reply = bridge.chat("Which port?", tools=[TOOL], tool_choice=wanted)
        assert (reply.status, reply.json["error"]["param"]) == (400, "tool_choice")
    assert bridge.chat("Which port?", tools=[TOOL]).status == 200


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="bridge-mini", prompt="hello", max_tokens=5, temperature=0)
    assert answer.choices[0].text is not None
    assert answer.usage is not None


def test_embeddings_in_every_form(bridge: Bridge, client: openai.OpenAI) -> None:
    one = client.embeddings.create(model="bridge-mini", input="こんにちは", encoding_format="float").data[0].embedding
    many = client.embeddings.create(model="bridge-mini", input=["こんにちは", "hello"], encoding_format="float").data
    assert many[0].embedding == pytest.approx(one, abs=1e-3)
    assert len(many[1].embedding) == len(one)
    coded = post(bridge, "/v1/embeddings", {"input": "こんにちは", "encoding_format": "base64"}).json["data"][0][
        "embedding"
    ]
    data = base64.b64decode(coded)
    assert struct.unpack(f"<{len(data) // 4}f", data) == pytest.approx(one, abs=1e-3)
    for ids in ([5, 6, 7], [[5, 6, 7], [8]]):
        assert post(bridge, "/v1/embeddings", {"input": ids}).status == 200


def test_an_embedding_does_not_depend_on_its_neighbours(bridge: Bridge) -> None:
    """Inputs of different lengths in one batch, and calls at once, give what each gives alone."""
    texts = ["a", "hello world", "こんにちは", "what is llm-bridge " * 8, "ポート番号は？", "x " * 50]

    def embedding(texts: str | list[str]) -> list[list[float]]:
        return [item["embedding"] for item in post(bridge, "/v1/embeddings", {"input": texts}).json["data"]]

    alone = [embedding(text)[0] for text in texts]
    with ThreadPoolExecutor(len(texts)) as pool:
        at_once = [found[0] for found in pool.map(embedding, texts)]
    for together in (embedding(texts), at_once):
        for one, other in zip(alone, together, strict=True):
            assert other == pytest.approx(one, abs=2e-3)


def test_responses(bridge: Bridge, client: openai.OpenAI) -> None:
    answer = client.responses.create(model="bridge-mini", input="hello", max_output_tokens=20, temperature=0)
    assert answer.output_text
    streamed = post(bridge, "/v1/responses", {"input": "hello", "stream": True, "max_output_tokens": 20})
    names = [name for name, _ in events(streamed)]
    assert names[-1] == "response.completed"
    assert names.count("response.completed") == 1


def test_anthropic_messages(bridge: Bridge) -> None:
    body = {
        "model": "bridge-mini",
        "max_tokens": 20,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
    }
    reply = post(bridge, "/v1/messages?beta=true", body, **{"anthropic-version": "2023-06-01", "x-api-key": "unused"})
    assert reply.status == 200, reply.body
    assert reply.json["type"] == "message"
    assert reply.json["content"][0]["type"] == "text"
    streamed = events(post(bridge, "/v1/messages", {**body, "stream": True}))
    assert streamed[0][0] == "message_start"
    assert [name for name, _ in streamed].count("message_stop") == 1
    assert streamed[-1][0] == "message_stop"
    counted = post(bridge, "/v1/messages/count_tokens", body)
    assert counted.json["input_tokens"] > 0
    wrong = post(bridge, "/v1/messages", {**body, "model": "nope"}, **{"accept-language": "en"})
    assert wrong.json["type"] == "error"
    assert wrong.json["error"]["type"] == "not_found_error"


def test_paths_without_v1_and_model_ids(bridge: Bridge) -> None:
    assert call(f"{bridge.gateway}/models").json["data"][0]["id"] == "bridge-mini"
    assert call(f"{bridge.gateway}/v1/models/bridge-mini").json["owned_by"] == "ollama"
    assert call(f"{bridge.gateway}/v1/models/no%2Fsuch%3Amodel").status == 404
    assert (
        post(bridge, "/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}).status
        == 200
    )


def test_too_long_a_prompt_is_a_clear_error(bridge: Bridge) -> None:
    reply = bridge.chat("hello " * 20_000, max_tokens=5)
    assert reply.status == 400
    assert reply.json["error"]["code"] == "context_length_exceeded"


def test_health(bridge: Bridge) -> None:
    for path in ("/health", "/health/liveliness", "/health/readiness"):
        assert call(f"{bridge.gateway}{path}").status == 200
    assert call(f"{bridge.gateway}/v1/chat/completions").status == 405
    assert call(f"{bridge.gateway}/nothing").status == 404
