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


def with_param(key: str, value: object) -> Config:
    document = {"model_list": [{"model_name": "a", "litellm_params": {"model": "openai/x", key: value}}]}
    return schema.parse(document, "r", lambda _path: None)


@pytest.mark.parametrize(
    "value",
    [
        "https://example.com",
        "http://127.0.0.1:8080/v1",
        "http://[::1]:1/v1/",
        "HTTP://my_host:65535",
        "os.environ/MY_BASE",
        "https://example.com/a%20b/v1",
    ],
)
def test_urls_that_can_be_used(value: str) -> None:
    assert with_param("api_base", value).models[0].api_base == value


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "must be an http:// or https:// URL"),
        (3, "must be an http:// or https:// URL"),
        ("file:///etc/passwd", "must be an http:// or https:// URL"),
        ("example.com/v1", "must be an http:// or https:// URL"),
        ("os.environ/", "write os.environ/NAME"),
        ("os.environ/A B", "write os.environ/NAME"),
        ("http://", "bad host or port"),
        ("http:///v1", "bad host or port"),
        ("http://:80/v1", "bad host or port"),
        ("http://h:0/v1", "bad host or port"),
        ("http://h:/v1", "bad host or port"),
        ("http://h:65536/v1", "bad host or port"),
        ("http://h:x/v1", "bad host or port"),
        ("http://[::1/v1", "bad host or port"),
        ("http://[x]/v1", "bad host or port"),
        ("http://h<>/v1", "bad host or port"),
        ("http://u:p@h/v1", "user or password"),
        ("http://k@h", "user or password"),
        ("http://h/v1?a=1", "must not hold"),
        ("http://h/v1#a", "must not hold"),
        ("http://h?@x", "must not hold"),
        ("http://a b/", "must not hold"),
        ("http://例え.jp/", "must not hold"),
        ("http://h/\r\nx: y", "must not hold"),
        ("http://h\\@x/", "must not hold"),
    ],
)
def test_urls_that_cannot_be_used(value: object, why: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"api_base.*{why}") as caught:
        with_param("api_base", value)
    assert "api_base" in caught.value.text("ja")


@pytest.mark.parametrize("value", ["", 3, ["x"], "a\nb", "a\x7f", "キー", "ａｂｃ", "os.environ/A B", "k" * 9000])
def test_keys_that_would_break_a_request_are_refused(value: object) -> None:
    with pytest.raises(ConfigInvalid, match="api_key"):
        with_param("api_key", value)


def test_the_master_key_is_kept_as_written() -> None:
    assert parse(LITELLM).master_key is None
    assert parse(LITELLM + "general_settings:\n").master_key is None
    assert parse(LITELLM + "general_settings: {master_key: null}\n").master_key is None
    for key in ("sk-1234", "os.environ/MASTER", "ü"):
        config = parse(LITELLM + f"general_settings: {{master_key: {key}}}\n")
        assert config.master_key == key
        assert key not in repr(config)


@pytest.mark.parametrize("key", ['""', "1234", "[a]", "キー", '"a\\nb"', "os.environ/", "k" * 4097])
def test_a_master_key_that_cannot_be_sent_is_refused(key: str) -> None:
    text = LITELLM + f"general_settings:\n  database_url: x\n  master_key: {key}\n"
    assert f"line {text.count(chr(10))}: master_key" in problems(text)


def test_what_has_no_effect_yet_is_named() -> None:
    assert parse("model_list:\n  - {model_name: a, litellm_params: {model: openai/x}}\n").unapplied == ()
    text = LITELLM + "router_settings: {num_retries: 2, fallbacks: [], timeout: 3}\n"
    second = "  - {model_name: gpt-4o, litellm_params: {model: openai/b}}\n"
    assert parse(text.replace("litellm_settings:", second + "litellm_settings:")).unapplied == (
        "litellm_params.extra_headers",
        "litellm_params.rpm",
        "model_name: gpt-4o (×2)",
        "router_settings.fallbacks",
        "router_settings.num_retries",
    )
