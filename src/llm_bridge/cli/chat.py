"""`run`: one question to a model, or a conversation when there is no question and a terminal."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

from llm_bridge.cli.client import Client, gateway
from llm_bridge.cli.console import CliError, Console, Exit, Subparsers
from llm_bridge.cli.sse import pieces
from llm_bridge.settings import Settings

with contextlib.suppress(ImportError):  # line editing in the conversation, where Python has it
    import readline  # noqa: F401

ANSWER_TIMEOUT = 600.0
Message = dict[str, str]


def register(verbs: Subparsers, console: Console) -> None:
    text = console.text
    verb = verbs.add_parser(
        "run",
        help=text("モデルに質問する（質問を省くと会話になる）", "ask a model (a conversation without a prompt)"),
    )
    verb.add_argument("model", metavar="MODEL", help=text("モデルの名前、または default", "a model's name, or default"))
    verb.add_argument("prompt", metavar="PROMPT", nargs="*", help=text("質問", "the question"))
    verb.add_argument("--system", help=text("システムプロンプト", "system prompt"))
    verb.add_argument("--temperature", type=float, help=text("温度", "temperature"))
    verb.add_argument("--max-tokens", type=int, help=text("答えの最大トークン数", "most tokens of an answer"))
    verb.set_defaults(call=run)


def run(args: argparse.Namespace, settings: Settings, console: Console) -> int:
    client = gateway(settings, console)
    options = {"temperature": args.temperature, "max_tokens": args.max_tokens}
    body = {"model": args.model, "stream": True} | {k: v for k, v in options.items() if v is not None}
    start: list[Message] = [{"role": "system", "content": args.system}] if args.system else []
    prompt = " ".join(args.prompt)
    if not prompt and sys.stdin and sys.stdin.isatty():
        return converse(client, body, start, console)
    if not prompt and sys.stdin:
        prompt = sys.stdin.buffer.read().decode("utf-8", "replace")
    if not prompt.strip():
        raise CliError(console.text("質問が空です", "The prompt is empty"), Exit.USAGE)
    answer(client, body, [*start, {"role": "user", "content": prompt}], console)
    return Exit.OK


def answer(client: Client, body: dict[str, Any], messages: list[Message], console: Console) -> str:
    """Print the model's answer as it arrives, and return it."""
    said: list[str] = []
    try:
        with client.open("POST", "/v1/chat/completions", body | {"messages": messages}, ANSWER_TIMEOUT) as response:
            for piece in pieces(response, console):
                said.append(piece)
                console.stream(piece)
    finally:
        if said and not said[-1].endswith("\n"):
            console.stream("\n")
    return "".join(said)


def converse(client: Client, body: dict[str, Any], start: list[Message], console: Console) -> int:
    """Questions and answers until Ctrl-D or /bye. Ctrl-C ends an answer; at the prompt it ends the program."""
    print(console.text("/bye で終了、/clear で会話を忘れます", "/bye ends, /clear forgets the conversation"))
    history = list(start)
    while True:
        try:
            question = input(">>> ")
        except EOFError:
            print()
            return Exit.OK
        if question.strip() in ("/bye", "/exit"):
            return Exit.OK
        if question.strip() == "/clear":
            history = list(start)
        elif question.strip():
            history = _turn(client, body, [*history, {"role": "user", "content": question}], console)


def _turn(client: Client, body: dict[str, Any], asked: list[Message], console: Console) -> list[Message]:
    """The history after one question: unchanged when its answer failed or was interrupted."""
    try:
        return [*asked, {"role": "assistant", "content": answer(client, body, asked, console)}]
    except CliError as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        print(console.text("（中断しました）", "(interrupted)"), file=sys.stderr)
    return asked[:-1]
