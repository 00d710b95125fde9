"""`config env`: every setting, its value and where that came from; also the text of `.env.example`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from llm_bridge.cli.console import Console, Exit, Subparsers
from llm_bridge.settings import SETTINGS, Settings, variable

# The variables of providers.table under their own names, repeated here because that module pulls in TLS and the
# client, which `--help` must not wait for. A test holds the two equal.
PROVIDER_KEYS = (
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "ANTHROPIC_API_KEY",
    "GEMINI_API_KEY",
    "GROQ_API_KEY",
    "DEEPSEEK_API_KEY",
    "MISTRAL_API_KEY",
    "OPENROUTER_API_KEY",
    "XAI_API_KEY",
    "HOSTED_VLLM_API_KEY",
    "LM_STUDIO_API_KEY",
    "LLAMAFILE_API_KEY",
)
MASK = "********"


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    value: str
    source: str
    secret: bool
    meaning: str


def register(verbs: Subparsers, console: Console) -> None:
    text = console.text
    verb = verbs.add_parser("config", help=text("設定を調べる", "look at the configuration"))
    actions = verb.add_subparsers(metavar="ACTION", required=True)
    env = actions.add_parser(
        "env", help=text("環境変数の値と出どころを表示する", "show each variable, its value and source")
    )
    form = env.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help=text("JSON で表示する", "print JSON"))
    form.add_argument(
        "--example", action="store_true", help=text(".env のひな形を表示する", "print a template of .env")
    )
    env.set_defaults(call=config_env)


def config_env(args: argparse.Namespace, settings: Settings, console: Console) -> int:
    if args.example:
        print(example(), end="")
        return Exit.OK
    rows = [_row(item, settings, console) for item in SETTINGS]
    if args.json:
        keys = ("name", "value", "source", "secret", "meaning")
        console.json([{key: getattr(row, key) for key in keys} for row in rows])
        return Exit.OK
    header = [console.text("変数", "VARIABLE"), console.text("値", "VALUE"), console.text("出どころ", "SOURCE")]
    console.table([*header, console.text("意味", "MEANING")], [[r.name, r.value, r.source, r.meaning] for r in rows])
    return Exit.OK


def shown(value: object) -> str:
    """A value as it is written in `.env`."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def example() -> str:
    """The text of `.env.example`: everything commented out at its default."""
    lines = [
        "# llm-bridge の設定。.env に写し、変える行だけ # を外してください。",
        "# Copy to .env and uncomment what you change.",
        "",
    ]
    for item in SETTINGS:
        lines += [
            f"# {item.metadata['ja']} / {item.metadata['en']}",
            f"# {variable(item.name)}={shown(item.default)}",
            "",
        ]
    lines += ["# API モデルのキーと接続先（使うものだけ） / keys and address of API providers, only those you use"]
    lines += [f"# {name}=" for name in PROVIDER_KEYS]
    return "\n".join(lines) + "\n"


def _row(item: Any, settings: Settings, console: Console) -> Row:
    effective = {"config": settings.config_path, "import_dir": settings.imports}
    value = shown(effective.get(item.name, getattr(settings, item.name)))
    secret = bool(item.metadata["secret"])
    meaning = item.metadata[console.lang]
    return Row(
        variable(item.name), MASK if secret and value else value, _source(item, settings, console), secret, meaning
    )


def _source(item: Any, settings: Settings, console: Console) -> str:
    """The environment, the `.env` that says the same, or the default."""
    name = variable(item.name)
    text = settings.environ.get(name, "")
    if item.name == "api_key" and not text and settings.api_key:
        name, text = "LITELLM_MASTER_KEY", settings.api_key
    if not text:
        return console.text("既定", "default")
    for folder in (Path.cwd(), settings.home):
        if dotenv_values(folder / ".env", interpolate=False).get(name) == text:
            return str(folder / ".env")
    return console.text("環境変数", "environment") if name == variable(item.name) else name
