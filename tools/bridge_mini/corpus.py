"""Read the hand-written corpus and turn it into varied questions and conversations."""

from __future__ import annotations

import random
import re
import tomllib
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CORPUS_DIR = Path(__file__).parent / "corpus"
UNKNOWN = "unknown"
GROUP = re.compile(r"\(([^()]*)\)")
SLOT = re.compile(r"\{(\w+)\}")
UNKNOWN_SHARE = 0.28
VARIATIONS: dict[str, Any] = tomllib.loads((CORPUS_DIR / "variations.toml").read_text(encoding="utf-8"))
PROPER: dict[str, str] = dict(VARIATIONS["en"]["proper"])


@dataclass(frozen=True)
class Intent:
    """One topic in one language: phrasing patterns (with groups and slots) and the answer (with slots)."""

    name: str
    language: str
    patterns: tuple[str, ...]
    answer: str


def load_intents() -> list[Intent]:
    """Return every (topic, language) pair of the corpus."""
    intents = []
    for name in ("about", "usage", "operate", UNKNOWN):
        topics = tomllib.loads((CORPUS_DIR / f"{name}.toml").read_text(encoding="utf-8"))
        for topic, entry in topics.items():
            for language in ("en", "ja"):
                patterns = tuple(line.strip() for line in entry[language].splitlines() if line.strip())
                intents.append(Intent(topic, language, patterns, entry[f"{language}_answer"].strip()))
    return intents


def load_lists() -> dict[str, dict[str, list[str]]]:
    """Return the slot values as {slot: {language: values}}; slots without a Japanese list use the English one."""
    raw = tomllib.loads((CORPUS_DIR / "lists.toml").read_text(encoding="utf-8"))
    lists = {slot: {language: text.split("\n")[:-1] for language, text in entry.items()} for slot, entry in raw.items()}
    for values in lists.values():
        values.setdefault("ja", values.get("en", []))
        values.setdefault("en", values["ja"])
    return lists


class Sampler:
    """Draws questions with their answers, and whole conversations, from the corpus."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.lists = load_lists()
        intents = load_intents()
        self.known = [intent for intent in intents if intent.name != UNKNOWN]
        self.unknown = [intent for intent in intents if intent.name == UNKNOWN]

    def question(self, language: str | None = None) -> tuple[Intent, str, str]:
        """Return (intent, noisy question, answer), in `language` or in a random one."""
        pool = self.unknown if self.rng.random() < UNKNOWN_SHARE else self.known
        intent = self.rng.choice([item for item in pool if language in (None, item.language)])
        text, values = self.expand(self.rng.choice(intent.patterns), intent.language)
        while intent.language == "ja" and text.isascii():  # "gpu" alone is answered in English
            text, values = self.expand(self.rng.choice(intent.patterns), intent.language)
        answer = SLOT.sub(lambda m: values.get(m[1], "smollm2:135m") if m[1] in self.lists else m[0], intent.answer)
        return intent, self.vary(text, intent.language), answer

    def expand(self, pattern: str, language: str) -> tuple[str, dict[str, str]]:
        """Pick one alternative per group and one value per slot; return the text and the slot values."""
        values: dict[str, str] = {}

        def fill(match: re.Match[str]) -> str:
            values[match[1]] = self.rng.choice(self.lists[match[1]][language])
            return values[match[1]]

        text = GROUP.sub(lambda match: self.rng.choice(match[1].split("|")), pattern)
        return re.sub(r" +", " ", SLOT.sub(fill, text)).strip(), values

    def vary(self, text: str, language: str) -> str:
        """Add prefixes, suffixes, synonyms, punctuation, case changes, full-width letters, typos and spaces."""
        rng, options, japanese = self.rng, VARIATIONS[language], language == "ja"
        if rng.random() < 0.3:
            for old, new in rng.sample(options["synonyms"], 8):
                text = text.replace(old, new, 1) if rng.random() < 0.5 and len(text) > 5 else text
        if rng.random() < 0.12:
            text += rng.choice(options["suffixes"])
        if rng.random() < 0.2:
            text = rng.choice(options["prefixes"]) + text
        if rng.random() < 0.05:
            text = rng.choice(options["context"]) + text
        text += rng.choice(options["ends"])
        text = self.change_case(text if japanese else self.spell(text))
        if rng.random() < 0.12:
            text = self.add_typos(text)
        if rng.random() < 0.02:
            text = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)
        if rng.random() < 0.08:
            text = " ".join(re.split(r"(?<=[はをがのに])", text)).strip() if japanese else text.replace(" ", "  ", 1)
        return text.strip() or "?"

    def spell(self, text: str) -> str:
        """Write words such as "i" and "chatgpt" the usual way in most questions."""
        if self.rng.random() < 0.3:
            return text
        return re.sub(r"[\w'-]+(?: face)?", lambda match: PROPER.get(match[0], match[0]), text)

    def change_case(self, text: str) -> str:
        """Return `text` as it is, in lower case, capitalised, in upper case or in title case."""
        kind = self.rng.random()
        if kind < 0.35:
            return text
        if kind < 0.62:
            return text.lower()
        if kind < 0.9:
            return text[:1].upper() + text[1:]
        return text.upper() if kind < 0.98 else text.title()

    def add_typos(self, text: str) -> str:
        """Delete, double, swap or replace one to three characters."""
        chars = list(text)
        for _ in range(1 + (len(chars) > 12) * self.rng.randrange(3)):
            if len(chars) < 4:
                break
            i, kind = self.rng.randrange(len(chars) - 1), self.rng.randrange(4)
            if kind == 0:
                del chars[i]
            elif kind == 1:
                chars.insert(i, chars[i])
            elif kind == 2:
                chars[i], chars[i + 1] = chars[i + 1], chars[i]
            else:
                chars[i] = self.rng.choice("abcdefghijklmnopqrstuvwxyz" if chars[i].isascii() else "あいうのがはをん")
        return "".join(chars)

    def conversation(self, turns: int) -> list[tuple[str, str, bool]]:
        """Return messages as (role, text, learn); `learn` marks the answers that count in the loss."""
        rng, messages = self.rng, []
        if rng.random() < 0.15:
            text = " ".join(rng.sample(VARIATIONS["system"], rng.choice((1, 1, 2, 3, 6))))
            messages.append(("system", text, False))
        language = rng.choice(("en", "ja"))
        for _ in range(turns):
            if rng.random() < 0.25:
                language = "ja" if language == "en" else "en"
            _, question, answer = self.question(language)
            foreign = rng.random() < 0.05
            messages.append(("user", question, False))
            messages.append(("assistant", rng.choice(VARIATIONS["foreign"]) if foreign else answer, not foreign))
        return messages


def normalise(text: str) -> str:
    """Return `text` in NFKC lower case without spaces and punctuation, to compare questions."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).lower())


def pattern_regex(pattern: str, lists: dict[str, dict[str, list[str]]], language: str) -> re.Pattern[str]:
    """Return the regular expression that matches every normalised expansion of a corpus pattern."""

    def options(values: list[str]) -> str:
        return "(?:" + "|".join(re.escape(normalise(value)) for value in values) + ")"

    parts = []
    for piece in re.split(r"(\([^()]*\))", pattern):
        alternatives = [
            "".join(
                options(lists[bit[1:-1]][language]) if SLOT.fullmatch(bit) else re.escape(normalise(bit))
                for bit in re.split(r"(\{\w+\})", alternative)
            )
            for alternative in piece.removeprefix("(").removesuffix(")").split("|")
        ]
        parts.append("(?:" + "|".join(alternatives) + ")")
    return re.compile("".join(parts))
