"""`run`: one question, and a conversation on a real terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import Self

import pytest

from tests.cli.program import COMMAND, Program
from tests.cli.scripted import DONE, STREAM_HEAD, answer, event, openai_error, stream

CHAT = ("POST", "/v1/chat/completions")


@pytest.mark.parametrize("size", [0, 1, 3, 11])
def test_one_question(cli: Program, size: int) -> None:
    cli.gateway.reply[CHAT] = stream(b": wait\n\n", event("こん"), event("にちは😀"), DONE, size=size)
    done = cli("run", "tiny", "二つの", "単語", "--system", "短く", "--temperature", "0", "--max-tokens", "9")
    assert (done.returncode, done.stdout, done.stderr) == (0, "こんにちは😀\n", "")
    assert cli.gateway.requests[0].json == {
        "model": "tiny",
        "stream": True,
        "temperature": 0.0,
        "max_tokens": 9,
        "messages": [{"role": "system", "content": "短く"}, {"role": "user", "content": "二つの 単語"}],
    }


def test_the_question_from_a_pipe(cli: Program) -> None:
    cli.gateway.reply[CHAT] = stream(event("ok\n"), DONE)
    assert cli("run", "tiny", given="質問".encode() + b"\xff").stdout == "ok\n"
    assert cli.gateway.requests[0].json == {
        "model": "tiny",
        "stream": True,
        "messages": [{"role": "user", "content": "質問\ufffd"}],
    }
    assert cli("run", "tiny", given=" ").returncode == 2


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (401, "invalid_api_key", 5),
        (401, "missing_provider_key", 5),
        (404, "model_not_found", 4),
        (503, "out_of_memory", 6),
    ],
)
def test_refusals(cli: Program, status: int, code: str, exit_code: int) -> None:
    cli.gateway.reply[CHAT] = openai_error(status, "だめな理由", code)
    done = cli("run", "tiny", "x")
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert done.stderr.startswith("だめな理由")
    assert ("LLM_BRIDGE_API_KEY" in done.stderr) == (code == "invalid_api_key")


ERROR = '{"error": {"message": "停止しました", "code": "engine_failed"}}'
WHOLE = STREAM_HEAD + b"".join(stream(event("途中"), DONE)[1:])


@pytest.mark.parametrize(
    "packets",
    [
        stream(event("途中"), f"data: {ERROR}\n\n".encode()),
        stream(event("途中")),
        stream(event("途中"), ended=False),
        stream(event("途中"), b"data: {nope\n\n"),
        stream(event("途中"), b'data: {"choices": [1]}\n\n'),
        stream(event("途中"), b"data: " + b"x" * (1 << 20)),
    ],
)
def test_failures_in_the_middle(cli: Program, packets: list[bytes]) -> None:
    cli.gateway.reply[CHAT] = packets
    done = cli("run", "tiny", "x")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "途中\n", 1)


@pytest.mark.parametrize("end", range(len(STREAM_HEAD), len(WHOLE) - 22, 17))
def test_a_truncated_stream_is_never_a_success(cli: Program, end: int) -> None:
    cli.gateway.reply[CHAT] = [WHOLE[:end]]
    assert cli("run", "tiny", "x").returncode == 1


def test_a_reader_that_leaves_is_no_failure(cli: Program) -> None:
    cli.gateway.reply[CHAT] = stream(*[event("長い答え\n" * 50) for _ in range(200)], DONE)
    line = [*COMMAND, "run", "tiny", "x"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=cli.env()) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(20), process.stderr.read()) == (0, b"")


def test_interrupt(cli: Program) -> None:
    cli.gateway.hold, cli.gateway.reply[CHAT] = 20, stream(event("途中"), ended=False)
    line = [*COMMAND, "run", "tiny", "x"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=cli.env()) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(6) == "途中".encode()
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
        assert process.stderr.read().decode() == "中断しました\n"
    assert cli.gateway.hung_up.wait(5)


@dataclass
class Terminal:
    """The CLI on a pseudo terminal."""

    line: list[str]
    env: dict[str, str]
    shown: str = ""
    _fd: int = field(default=-1)

    def __enter__(self) -> Self:
        self._fd, child = pty.openpty()
        self.process = subprocess.Popen(
            self.line, stdin=child, stdout=child, stderr=child, env=self.env | {"TERM": "dumb"}, start_new_session=True
        )
        os.close(child)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)

    def until(self, text: str) -> str:
        """Read until `text` appears; returns everything since the last call."""
        start, end = len(self.shown), time.monotonic() + 15
        while text not in self.shown[start:]:
            assert time.monotonic() < end, self.shown
            if select.select([self._fd], [], [], 0.1)[0]:
                self.shown += os.read(self._fd, 65536).decode("utf-8", "replace")
        return self.shown[start:]

    def say(self, text: str) -> None:
        os.write(self._fd, text.encode())


def test_conversation(cli: Program) -> None:
    cli.gateway.reply[CHAT] = stream(event("答え\x1b[31m"), DONE)
    with Terminal([*COMMAND, "run", "tiny", "--system", "短く"], cli.env()) as terminal:
        terminal.until(">>> ")
        terminal.say("一つ目\n")
        assert "\x1b[31m" not in terminal.until(">>> ")
        terminal.say("二つ目\n")
        terminal.until(">>> ")
        cli.gateway.reply[CHAT] = openai_error(503, "だめな理由", "engine_failed")
        terminal.say("失敗\n")
        assert "だめな理由" in terminal.until(">>> ")
        cli.gateway.reply[CHAT] = stream(event("答え"), DONE)
        terminal.say("/clear\n")
        terminal.until(">>> ")
        terminal.say("三つ目\n")
        terminal.until(">>> ")
        terminal.say("\x04")
        assert terminal.process.wait(5) == 0
    asked = [[message["content"] for message in request.json["messages"]] for request in cli.gateway.requests]
    assert asked == [
        ["短く", "一つ目"],
        ["短く", "一つ目", "答え\x1b[31m", "二つ目"],
        ["短く", "一つ目", "答え\x1b[31m", "二つ目", "答え\x1b[31m", "失敗"],
        ["短く", "三つ目"],
    ]


def test_interrupt_ends_the_answer_then_the_program(cli: Program) -> None:
    cli.gateway.hold, cli.gateway.reply[CHAT] = 20, stream(event("途中"), ended=False)
    with Terminal([*COMMAND, "run", "tiny"], cli.env()) as terminal:
        terminal.until(">>> ")
        terminal.say("質問\n")
        terminal.until("途中")
        terminal.process.send_signal(signal.SIGINT)
        assert "中断しました" in terminal.until(">>> ")
        assert cli.gateway.hung_up.wait(5)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(5) == 130


def test_colour_only_on_a_terminal_without_no_color(cli: Program) -> None:
    cli.admin.reply["GET", "/models"] = answer(200, [])
    assert "\x1b" not in cli("ls").stdout
    with Terminal([*COMMAND, "ls"], cli.env()) as terminal:
        assert "\x1b[1m" in terminal.until("\n")
    with Terminal([*COMMAND, "ls"], cli.env(NO_COLOR="1")) as terminal:
        assert "\x1b" not in terminal.until("\n")
