"""Where a config entry leads, with whose key, and what is said when it leads nowhere."""

from dataclasses import replace

import pytest

from llm_bridge.config.schema import ModelEntry
from llm_bridge.errors import BadRequest, BridgeError, Forbidden, MissingKey
from llm_bridge.providers.table import PROVIDERS, upstream_for
from llm_bridge.settings import load

NOTHING = load({})
KEYED = load({"OPENAI_API_KEY": "sk-canary", "MY_KEY": "sk-mine"})


def entry(provider: str, api_base: str | None = None, api_key: str | None = None) -> ModelEntry:
    return ModelEntry("m", provider, "model-x", api_base, api_key)


async def test_a_provider_has_a_base_and_a_key_of_its_own() -> None:
    upstream, model = upstream_for(entry("openai"), KEYED)
    assert (upstream.name, model) == ("api.openai.com", "model-x")
    assert upstream.authority_and_prefix == ("api.openai.com", "/v1")


async def test_an_entry_may_name_its_own_base_and_key() -> None:
    made = entry("openai", "http://127.0.0.1:8080/api/v1/", "os.environ/MY_KEY")
    upstream, _ = upstream_for(made, KEYED)
    assert upstream.authority_and_prefix == ("127.0.0.1:8080", "/api/v1")


async def test_a_server_of_ones_own_needs_no_key() -> None:
    upstream_for(entry("hosted_vllm", "http://127.0.0.1:8080/v1"), NOTHING)
    upstream_for(entry("openai", "http://127.0.0.1:8080/v1"), NOTHING)


@pytest.mark.parametrize("provider", sorted(p for p, row in PROVIDERS.items() if not row.keyless))
async def test_a_missing_key_is_named(provider: str) -> None:
    with pytest.raises(MissingKey) as caught:
        upstream_for(entry(provider), NOTHING)
    assert PROVIDERS[provider].variable in caught.value.text("ja")


@pytest.mark.parametrize(
    ("made", "kind"), [(entry("bedrock"), BadRequest), (entry("lm_studio"), BadRequest)], ids=["unknown", "no base"]
)
async def test_an_entry_that_leads_nowhere_says_so(made: ModelEntry, kind: type[BridgeError]) -> None:
    with pytest.raises(kind):
        upstream_for(made, KEYED)


async def test_a_base_may_be_named_in_the_environment_and_its_password_is_not_shown() -> None:
    named = load({"MY_BASE": "http://user:canary@[::1]:8080/v1"})
    upstream, _ = upstream_for(entry("openai", "os.environ/MY_BASE", "sk-x"), named)
    assert upstream.authority_and_prefix == ("[::1]:8080", "/v1")


@pytest.mark.parametrize(
    "base", ["os.environ/NOT_SET", "127.0.0.1:8080/v1", "ftp://h/v1", "http://h:99999/v1", "http:///v1"]
)
async def test_a_base_that_is_no_url_is_one_clear_error(base: str) -> None:
    with pytest.raises(BadRequest):
        upstream_for(entry("lm_studio", base), NOTHING)


async def test_offline_means_no_connection_to_the_outside() -> None:
    offline = replace(KEYED, offline=True)
    with pytest.raises(Forbidden):
        upstream_for(entry("openai"), offline)
    upstream_for(entry("openai", "http://127.0.0.1:8080/v1"), offline)
    upstream_for(entry("openai", "http://localhost:8080/v1"), offline)
