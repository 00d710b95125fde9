"""Quality tests of the built-in model bridge-mini, by real inference in llama.cpp."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.bridge import call, running

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "src" / "llm_bridge" / "assets" / "bridge-mini.gguf"
PROMPTS: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("bridge_mini_prompts.json").read_text(encoding="utf-8")
)
MUST_PASS = 45
MAX_BYTES = 8 * 1024 * 1024
MiniChat = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def mini_chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniChat]:
    """Asks the model the way users do, through a bridge of its own."""
    with running(tmp_path_factory.mktemp("mini")) as bridge:

        def chat(messages: list[dict[str, str]], **fields: object) -> dict[str, Any]:
            body = {"model": "bridge-mini", "messages": messages, "max_tokens": 400, **fields}
            reply = call(f"{bridge.gateway}/v1/chat/completions", body)
            assert reply.status == 200, reply.body
            result: dict[str, Any] = reply.json
            return result

        yield chat


def ask(mini_chat: MiniChat, *texts: str, system: str = "", temperature: float = 0.0, seed: int = 1) -> str:
    """Return the answer to the last of `texts` (user and assistant in turn)."""
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    choice = mini_chat(messages, temperature=temperature, seed=seed)["choices"][0]
    assert choice["finish_reason"] == "stop"
    content: str = choice["message"]["content"]
    return content


def is_japanese(text: str) -> bool:
    """Tell whether `text` contains kana."""
    return re.search(r"[\u3041-\u30fa]", text) is not None


def passes(prompt: dict[str, Any], answer: str) -> bool:
    """Tell whether `answer` holds every required word, in the language of the prompt."""
    required: list[str] = prompt["contains"]
    question: str = prompt["prompt"]
    return all(word in answer for word in required) and is_japanese(answer) == is_japanese(question)


def load_corpus_module() -> ModuleType:
    """Import tools/bridge_mini/corpus.py, which needs the standard library only."""
    spec = importlib.util.spec_from_file_location("bridge_mini_corpus", ROOT / "tools" / "bridge_mini" / "corpus.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_file_is_small() -> None:
    assert MODEL.read_bytes()[:4] == b"GGUF"
    assert MODEL.stat().st_size <= MAX_BYTES


def test_prompts_are_balanced_and_paraphrases_are_not_in_the_corpus() -> None:
    corpus = load_corpus_module()
    lists = corpus.load_lists()
    patterns = [
        corpus.pattern_regex(pattern, lists, intent.language)
        for intent in corpus.load_intents()
        for pattern in intent.patterns
    ]
    assert len({prompt["prompt"] for prompt in PROMPTS}) == len(PROMPTS) == 50
    assert sum(is_japanese(prompt["prompt"]) for prompt in PROMPTS) == 25
    held_out = [prompt["prompt"] for prompt in PROMPTS if prompt["paraphrase"]]
    assert len(held_out) >= 25
    known = [text for text in held_out if any(pattern.fullmatch(corpus.normalise(text)) for pattern in patterns)]
    assert known == []


def test_pattern_check_recognises_corpus_questions() -> None:
    corpus = load_corpus_module()
    lists = corpus.load_lists()
    sampler = corpus.Sampler(7)
    for intent in corpus.load_intents():
        for pattern in intent.patterns:
            text, _ = sampler.expand(pattern, intent.language)
            regex = corpus.pattern_regex(pattern, lists, intent.language)
            assert regex.fullmatch(corpus.normalise(text)), (pattern, text)


def test_answers_at_temperature_zero(mini_chat: MiniChat) -> None:
    answers = {prompt["prompt"]: ask(mini_chat, prompt["prompt"]) for prompt in PROMPTS}
    failed = [
        f"{prompt['prompt']} -> {answers[prompt['prompt']]}"
        for prompt in PROMPTS
        if not passes(prompt, answers[prompt["prompt"]])
    ]
    print(f"bridge-mini: {len(PROMPTS) - len(failed)} of {len(PROMPTS)} prompts")
    assert len(PROMPTS) - len(failed) >= MUST_PASS, "\n".join(failed)


def test_answers_survive_sampling(mini_chat: MiniChat) -> None:
    good = sum(passes(prompt, ask(mini_chat, prompt["prompt"], temperature=0.7)) for prompt in PROMPTS)
    assert good >= MUST_PASS - 3


@pytest.mark.parametrize(
    "system",
    [
        "You are a helpful assistant.",
        "あなたは親切なアシスタントです。",
        "You are a coding agent. Use the tools. " * 60,
    ],
)
def test_system_message_does_not_matter(mini_chat: MiniChat, system: str) -> None:
    assert "bridge-mini" in ask(mini_chat, "こんにちは、自己紹介してください", system=system)
    assert "/models/download" in ask(mini_chat, "How do I download a model?", system=system)
    assert "smollm2:135m" in ask(mini_chat, "日本の四季について短く説明してください", system=system)


def test_answers_the_last_question_of_a_conversation(mini_chat: MiniChat) -> None:
    turns: list[str] = []
    for question, word in [
        ("こんにちは", "bridge-mini"),
        ("日本の四季について短く説明してください", "smollm2:135m"),
        ("How do I download a model?", "/models/download"),
        ("ポート番号は？", "8000"),
        ("What is the capital of France?", "too small"),
        ("GPUを使うには", "docker-compose.gpu.yml"),
        ("thanks", "welcome"),
    ]:
        answer = ask(mini_chat, *turns, question)
        assert word in answer, question
        turns += [question, answer]


@pytest.mark.parametrize(
    "text",
    ["  How do I download a model?  \n", "HOW DO I DOWNLOAD A MODEL", "モデルのダウンロード方法は！？", "ダウンロード"],
)
def test_ignores_spaces_case_and_punctuation(mini_chat: MiniChat, text: str) -> None:
    assert "/models/download" in ask(mini_chat, text)
