"""`llm-bridge`: the table of verbs, and the one place where an error becomes a line on stderr and an exit code."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence
from pathlib import Path

from llm_bridge.cli import chat, configuration, models, service
from llm_bridge.cli.console import CliError, Console, Exit, one_line, prepare, reader_left
from llm_bridge.settings import SettingError, Settings, load

GROUPS = (service, models, chat, configuration)


def main(argv: Sequence[str] | None = None) -> int:
    prepare(sys.stdin, sys.stdout, sys.stderr)
    settings, problem = _settings()
    console = Console.of(settings)
    try:
        args = parser(console).parse_args(argv)
        if problem:
            raise CliError(problem, Exit.USAGE)
        code: int = args.call(args, settings, console)
        sys.stdout.flush()
    except CliError as error:
        return _fail(one_line(str(error)), error.code)
    except KeyboardInterrupt:
        return _fail(console.text("中断しました", "Interrupted"), Exit.INTERRUPTED)
    except BrokenPipeError:
        reader_left()
        return Exit.OK
    except OSError as error:  # writing our output failed: the only I/O that is not the client's
        return _fail(str(error), Exit.NO_SPACE if error.errno == errno.ENOSPC else Exit.FAILED)
    return code


def parser(console: Console) -> argparse.ArgumentParser:
    """The whole command line. Each group adds its verbs and sets `call`."""
    text = console.text
    root = argparse.ArgumentParser(
        prog="llm-bridge",
        description=text(
            "ローカルのモデルと API のモデルを一つの OpenAI 互換エンドポイントで使います。",
            "One OpenAI-compatible endpoint for local and API models.",
        ),
        epilog=text(
            "終了コード: 0 成功、1 失敗、2 使い方の誤り、3 接続できない、4 見つからない、"
            "5 キーの誤り、6 メモリまたはディスクの不足、130 中断",
            "Exit codes: 0 ok, 1 failure, 2 usage, 3 not reachable, 4 not found, 5 auth, "
            "6 out of memory or disk, 130 interrupted",
        ),
    )
    verbs = root.add_subparsers(metavar="VERB", required=True)
    for group in GROUPS:
        group.register(verbs, console)
    return root


def _settings() -> tuple[Settings, str]:
    """The settings, or plain ones and why they cannot be read, so that `--help` always answers."""
    try:
        return load(), ""
    except SettingError as error:
        return Settings(home=Path("~/.llm-bridge").expanduser()), str(error)


def _fail(line: str, code: Exit) -> int:
    try:
        sys.stdout.flush()
    except OSError:
        reader_left()
    print(line, file=sys.stderr)
    return code
