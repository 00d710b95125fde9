"""The meaning of a config document: accepted whole or refused whole, with lines."""

from __future__ import annotations

from typing import Any

import pytest

from llm_bridge.config import schema, yamltext
from llm_bridge.config.schema import Config
from llm_bridge.errors import ConfigInvalid, ProviderModelForm


def parse(text: str) -> Config:
    tree = yamltext.read(text)
    return schema.parse(tree.root.plain(), "r", tree.line)


def problems(text: str) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        parse(text)
    return caught.value.text("en")


LITELLM = """\
model_list:
  - model_name: smollm-tiny
    litellm_params:
      model: ollama/smollm2:135m
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
      api_base: https://example.com/v1
      api_key: os.environ/OPENAI_API_KEY
      timeout: 30
      stream_timeout: 2.5
      rpm: 60
      extra_headers: {x-a: b}
    model_info: {mode: chat}
litellm_settings: {drop_params: yes}
unknown_section: [1, 2]
"""


def test_a_litellm_file_is_read_with_all_it_says() -> None:
    config = parse(LITELLM)
    gpt = config.find("gpt-4o")
    assert gpt is not None
    assert (gpt.provider, gpt.model, gpt.provider_model) == ("openai", "gpt-4o", "openai/gpt-4o")
    assert (gpt.api_base, gpt.api_key) == ("https://example.com/v1", "os.environ/OPENAI_API_KEY")
    assert (gpt.timeout, gpt.stream_timeout) == (30.0, 2.5)
    assert gpt.params == {"rpm": 60, "extra_headers": {"x-a": "b"}}
    assert gpt.info == {"mode": "chat"}
    assert config.default is config.local is config.find("smollm-tiny")
    assert config.raw["unknown_section"] == [1, 2]
    assert config.raw["litellm_settings"] == {"drop_params": True}
    assert config.find("absent") is None
    assert "OPENAI" not in repr(gpt)


def test_every_problem_is_named_with_its_line() -> None:
    text = problems(
        "model_list:\n"
        "  - model_name: ''\n"
        "    litellm_params: {model: openai/x}\n"
        "  - model_name: b\n"
        "    litellm_params:\n"
        "      model: noslash\n"
        "      timeout: -1\n"
        "  - just text\n"
        "general_settings: 3\n"
    )
    for expected in (
        "line 2: model_name",
        "line 6: model must",
        "line 7: timeout",
        "line 8: a model must",
        "line 9: gen",
    ):
        assert expected in text


def test_two_local_models_are_a_problem() -> None:
    text = LITELLM.replace("openai/gpt-4o", "ollama_chat/phi3")
    assert "line 5: only one local model" in problems(text)


@pytest.mark.parametrize("document", ["", "[]", "a: 1", "model_list: []", "model_list: 3", "model_list: {a: 1}", "x"])
def test_a_config_without_models_is_refused(document: str) -> None:
    assert "configuration is not valid" in problems(document)


def test_many_problems_are_cut_to_a_readable_number() -> None:
    text = problems("model_list:\n" + "  - 1\n" * 500)
    assert text.count("a model must be") == schema.MAX_PROBLEMS
    assert "480 more" in text


def test_custom_llm_provider_names_the_provider() -> None:
    config = parse("model_list:\n  - {model_name: a, litellm_params: {model: gpt-4o, custom_llm_provider: openai}}\n")
    assert config.models[0].provider_model == "openai/gpt-4o"


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("ollama/smollm2:135m", ("ollama", "smollm2:135m")),
        ("ollama/hf.co/user/repo:Q4_K_M", ("ollama", "hf.co/user/repo:Q4_K_M")),
        ("openrouter/meta/llama-3", ("openrouter", "meta/llama-3")),
    ],
)
def test_provider_and_model_are_split_at_the_first_slash(text: str, pair: tuple[str, str]) -> None:
    assert schema.split_provider_model(text) == pair


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "phi3",
        "/x",
        "ollama/",
        "ollama/..",
        "ollama/a/../b",
        "ol lama/x",
        "a/b\n",
        "a/\x00",
        "a/ b",
        "é/b",
        "a/" + "b" * 300,
    ],
)
def test_what_is_not_provider_slash_model_is_refused(text: str) -> None:
    with pytest.raises(ProviderModelForm):
        schema.split_provider_model(text)


@pytest.mark.parametrize("value", ["1", True, 0, -1, 1e9, [1], {}])
def test_a_timeout_is_a_number_of_seconds(value: Any) -> None:
    document = {"model_list": [{"model_name": "a", "litellm_params": {"model": "openai/x", "timeout": value}}]}
    with pytest.raises(ConfigInvalid, match="timeout must be"):
        schema.parse(document, "r", lambda _path: None)


@pytest.mark.parametrize(
    ("key", "value"), [("api_base", "file:///etc/passwd"), ("api_key", "a\nb"), ("api_key", "os.environ/A B")]
)
def test_texts_that_would_break_a_request_are_refused(key: str, value: str) -> None:
    document = {"model_list": [{"model_name": "a", "litellm_params": {"model": "openai/x", key: value}}]}
    with pytest.raises(ConfigInvalid, match=key):
        schema.parse(document, "r", lambda _path: None)
