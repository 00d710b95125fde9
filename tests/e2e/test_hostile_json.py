"""C6, C7: documents made to break a parser or the engine. The answer is a 4xx or an honest 200, never a 5xx."""

import random
from pathlib import Path
from typing import Any

import orjson

from tests.support.bridge import Bridge, call, running

CASES = 2000
FIELDS = [
    *("temperature", "top_p", "top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n", "presence_penalty"),
    *("frequency_penalty", "seed", "max_tokens", "max_completion_tokens", "stop", "n", "logprobs", "top_logprobs"),
    *("logit_bias", "stream_options", "response_format", "json_schema", "grammar", "tools", "tool_choice", "messages"),
    *("chat_template_kwargs", "reasoning_format", "parallel_tool_calls", "cache_prompt", "stream", "model", "user"),
    *("id_slot", "lora", "samplers", "n_probs", "dynatemp_range", "mirostat", "return_tokens", "timings_per_token"),
]
VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        -(2**63),
        10**30,
        1e308,
        -1e308,
        0.5,
        "",
        "x",
        "\x00",
        "a" * 300,
        "日本",
    ),
    *([], {}, [[]], [None], [0], ["a"], [{}], {"a": None}, {"": ""}, [[[[]]]], {"type": "json_object"}, {"0": -100}),
    *({"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}, {"type": "grammar"}, {"type": []}),
    *(
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": "(a*)*$"}}},
    ),
    *("root ::= root", 'root ::= "a"*', "root ::=", 'root ::= "a"{1,4000}', {"include_usage": 3}, ["auto"], "required"),
    *([{"type": "function"}], [{"type": "function", "function": {"name": "f", "parameters": {"type": 3}}}]),
    *(
        [{"role": "user"}],
        [{"role": "user", "content": 3}],
        [{"role": 5, "content": "x"}],
        [{"role": "tool", "content": "x"}],
    ),
    *([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],),
    *([{"role": "user", "content": [{"type": "text"}]}], [{"role": "assistant", "tool_calls": [{"function": {}}]}]),
]
RAW = [
    *(
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b"\xff\xfe",
        b'{"a":NaN}',
        b'{"messages":Infinity}',
        b"{'a':1}",
        b'{"a":1,}',
    ),
    *(
        b"[" * 3000,
        b'{"a":' * 3000,
        b'{"messages":' + b"[" * 3000 + b"]" * 3000 + b"}",
        b'{"a":"\\ud800"}',
        b'{"a":1e999}',
    ),
    *(
        b'{"model":"x","model":"bridge-mini","messages":[]}',
        b'{"messages":[{"role":"user","content":"' + b"[" * 99_999 + b'"}]}',
    ),
    *(
        b'{"max_tokens":' + b"9" * 5000 + b"}",
        b'{"a":' + b"[" * 65 + b"]" * 65 + b"}",
        b"\xef\xbb\xbf{}",
        b'{"\x00":1}',
    ),
]


def document(rng: random.Random) -> dict[str, Any]:
    """A good call with a few fields replaced by bad ones."""
    made: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    for name in rng.sample(FIELDS, rng.randrange(1, 4)):
        made[name] = rng.choice(VALUES)
    return made


def encoded(value: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # integers beyond 64 bits
        return (
            repr(value)
            .replace("'", '"')
            .replace("None", "null")
            .replace("True", "true")
            .replace("False", "false")
            .encode()
        )


def send(bridge: Bridge, body: bytes) -> int:
    return call(f"{bridge.gateway}/v1/chat/completions", body).status


def test_no_document_breaks_anything(tmp_path: Path) -> None:
    rng = random.Random(6)
    with running(tmp_path, parallel="2") as bridge:
        engine = bridge.engine_pid()
        bodies = RAW + [encoded(document(rng)) for _ in range(CASES)]
        bad = []
        for body in bodies:
            status = send(bridge, body)
            if status >= 500:
                bad.append((status, body[:300]))
        exits = int(bridge.engine_pid() != engine)
        assert bridge.chat("hi", max_tokens=2).status == 200
    print(f"C6: {len(bodies)} documents, 5xx {len(bad)}, engine exits {exits}")
    assert bad == []
    assert exits == 0


def test_deep_documents_and_odd_numbers_are_refused_before_the_engine(bridge: Bridge) -> None:
    for body in (b"[" * 3000, b'{"a":' + b"[" * 65 + b"]" * 65 + b"}", b'{"messages":[],"temperature":NaN}'):
        assert send(bridge, body) == 400


def test_a_field_that_belongs_to_the_configuration_is_refused(bridge: Bridge) -> None:
    for name in ("api_base", "base_url", "api_key", "custom_llm_provider", "aws_secret_access_key", "vertex_project"):
        reply = bridge.chat("hi", **{name: "http://127.0.0.1:1/"})
        assert reply.status == 400
        assert reply.json["error"]["param"] == name


def test_a_field_out_of_range_is_named(bridge: Bridge) -> None:
    for name, value in (("temperature", -1), ("top_p", 2), ("n", 99), ("max_tokens", "many"), ("stop", [1])):
        reply = bridge.chat("hi", **{name: value})
        assert (reply.status, reply.json["error"]["param"]) == (400, name)


def test_a_schema_that_explodes_or_cannot_be_used_is_an_error_not_free_text(bridge: Bridge) -> None:
    """C7: failure is 400, never unconstrained output."""
    for schema in (
        {"type": "array", "items": {"type": "string"}, "minItems": 10**8},
        {"type": "string", "maxLength": 10**9},
        {"type": "no-such-type"},
        {"$ref": "http://127.0.0.1:1/schema.json"},
    ):
        wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
        assert bridge.chat("hi", response_format=wanted, max_tokens=4).status == 400, schema
