"""Where settings come from: the environment, `.env` here, `.env` in the data directory, in this order."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_bridge.settings import load


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".env").write_text("LLM_BRIDGE_THREADS=3\nLLM_BRIDGE_PARALLEL=7\nOPENAI_API_KEY=sk-data\n")
    return tmp_path / "here"


def test_the_data_directory_that_the_first_env_names_has_the_second(here: Path) -> None:
    data = here.parent / "data"
    (here / ".env").write_text(f"LLM_BRIDGE_HOME={data}\nLLM_BRIDGE_THREADS=2\n")
    settings = load({}, here)
    assert (settings.home, settings.threads, settings.parallel) == (data, 2, 7)
    assert settings.secret("OPENAI_API_KEY") == "sk-data"


def test_the_environment_comes_first(here: Path) -> None:
    data = here.parent / "data"
    (here / ".env").write_text("LLM_BRIDGE_HOME=/nonexistent\nLLM_BRIDGE_THREADS=2\n")
    settings = load({"LLM_BRIDGE_HOME": str(data), "LLM_BRIDGE_THREADS": "1"}, here)
    assert (settings.home, settings.threads, settings.parallel) == (data, 1, 7)
