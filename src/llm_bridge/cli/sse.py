"""The stream of a chat completion: server-sent events in, pieces of text out, one honest end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

from llm_bridge.cli.client import error_code, error_line
from llm_bridge.cli.console import CliError, Console, exit_for

MAX_LINE = 1 << 20


def events(response: HTTPResponse, console: Console) -> Iterator[str]:
    """The data of each event. `readline` waits for whole lines, so it does not matter where packets split."""
    data: list[str] = []
    while line := response.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise CliError(console.text("応答の一行が大きすぎます", "A line of the answer is too long"))
        text = line.rstrip(b"\r\n").decode("utf-8", "replace")
        if text.startswith("data:"):
            data.append(text[5:].removeprefix(" "))
        elif not text and data:
            yield "\n".join(data)
            data.clear()


def pieces(response: HTTPResponse, console: Console) -> Iterator[str]:
    """The answer's text, piece by piece, up to `[DONE]`.

    Raises:
        CliError: an error event came, or the stream ended before `[DONE]`.
    """
    for data in events(response, console):
        if data.strip() == "[DONE]":
            return
        yield from _texts(_parse(data, console), console)
    raise CliError(
        console.text(
            "応答が途中で切れました（最後まで届いていません）",
            "The answer was cut off before its end",
        )
    )


def _parse(data: str, console: Console) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise CliError(console.text("応答の途中に読み取れないデータがありました", "The answer holds unreadable data"))
    if event.get("error"):
        line = console.text("応答の途中でエラーが発生しました: {why}", "The answer failed half way: {why}")
        raise CliError(line.format(why=error_line(event)), exit_for(0, error_code(event)))
    return event


def _texts(event: dict[str, Any], console: Console) -> Iterator[str]:
    try:
        for choice in event.get("choices") or []:
            text = (choice.get("delta") or {}).get("content")
            if text:
                yield str(text)
    except AttributeError:
        raise CliError(
            console.text("応答の途中に読み取れないデータがありました", "The answer holds unreadable data")
        ) from None
