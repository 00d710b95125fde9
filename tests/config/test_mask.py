"""No secret leaves in an answer, and a masked answer that comes back keeps the stored one."""

from __future__ import annotations

from typing import Any

import pytest

from llm_bridge.config import incoming, mask, yamltext
from llm_bridge.errors import ConfigInvalid

CANARY = "sk-canary-0123456789abcdef"
STORED: dict[str, Any] = {
    "model_list": [
        {"model_name": "a", "litellm_params": {"model": "openai/a", "api_key": CANARY + "A111"}},
        {"model_name": "b", "litellm_params": {"model": "openai/b", "api_key": "os.environ/KEY", "max_tokens": 5}},
    ],
    "general_settings": {"master_key": "short", "database_url": f"postgres://u:{CANARY}@h/db"},
}


SECRET_NAMES = """
api_key apikey API_KEY azure_ad_token token client_secret aws_secret_access_key aws_access_key_id aws_session_token
password redis_password Authorization x-api-key vertex_credentials private_key langfuse_secret_key master_key cookie
hf_token slack_signature
"""


@pytest.mark.parametrize("key", SECRET_NAMES.split())
def test_secret_names_are_masked_wherever_they_are(key: str) -> None:
    deep = {"x": [{"y": {key: CANARY}}], key: {"inner": [CANARY, 12345]}}
    assert CANARY not in str(mask.masked(deep))
    assert "12345" not in str(mask.masked(deep))


@pytest.mark.parametrize("key", ["extra_headers", "headers", "default_headers", "environment_variables"])
def test_every_value_of_headers_is_masked(key: str) -> None:
    assert mask.masked({key: {"X-Anything": CANARY, "x": 7}}) == {key: {"X-Anything": "****cdef", "x": "****"}}


@pytest.mark.parametrize(
    "value",
    [CANARY, "hf_abcdefghijklmnopqrstuv", "Bearer abc", "-----BEGIN PRIVATE KEY-----\nxx", "AKIAABCDEFGHIJKLMNOP"],
)
def test_values_that_look_like_secrets_are_masked_under_any_name(value: str) -> None:
    assert value not in str(mask.masked({"note": value}))


def test_a_password_in_a_url_is_masked() -> None:
    assert mask.masked({"url": "redis://u:pw@host:1/0"}) == {"url": "redis://****@host:1/0"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_tokens", 4096),
        ("input_cost_per_token", 0.5),
        ("model", "openai/gpt-4o"),
        ("api_key", "os.environ/K"),
        ("api_key", None),
        ("api_base", "https://example.com/v1"),
        ("drop_params", True),
        ("api_key", ""),
    ],
)
def test_what_is_no_secret_is_shown(key: str, value: Any) -> None:
    assert mask.masked({key: value}) == {key: value}


def test_only_long_secrets_show_their_end() -> None:
    assert (mask.mask_text("short"), mask.mask_text("0123456789abcdef")) == ("****", "****cdef")


def test_a_masked_document_comes_back_as_it_was_stored() -> None:
    shown = mask.masked(STORED)
    assert CANARY not in str(shown)
    assert mask.with_values(shown, mask.restore(shown, STORED)) == STORED


def test_entries_may_move_and_be_renamed() -> None:
    shown = mask.masked(STORED)
    shown["model_list"].reverse()
    restored = mask.with_values(shown, mask.restore(shown, STORED))
    assert restored["model_list"] == STORED["model_list"][::-1]
    shown = mask.masked(STORED)
    shown["model_list"][0]["model_name"] = "renamed"
    restored = mask.with_values(shown, mask.restore(shown, STORED))
    assert restored["model_list"][0]["litellm_params"]["api_key"] == CANARY + "A111"


def test_a_mask_without_a_secret_is_refused() -> None:
    shown = mask.masked(STORED)
    shown["model_list"].append({"model_name": "c", "litellm_params": {"model": "openai/c", "api_key": "****zzzz"}})
    with pytest.raises(ConfigInvalid, match=r"model_list\.2\.litellm_params\.api_key"):
        mask.restore(shown, STORED)


def test_yaml_keeps_its_comments_and_json_becomes_yaml() -> None:
    head = "model_list: # mine\n  - model_name: a\n    litellm_params:\n      model: openai/a\n"
    text = head + '      api_key: "****A111" # k\n'
    assert incoming.as_stored(text.encode(), STORED) == text.replace('"****A111"', CANARY + "A111")
    made = incoming.as_stored(b'{"model_list": [{"model_name": "\\ud83d\\ude00"}]}', STORED)
    assert yamltext.read(made).root.plain() == {"model_list": [{"model_name": "😀"}]}
    assert made.startswith("model_list:\n  - ")
