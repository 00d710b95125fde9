"""`up`, `status`, `version`: the service itself."""

from __future__ import annotations

import argparse
from typing import Any

from llm_bridge.cli.client import admin
from llm_bridge.cli.console import Console, Exit, Subparsers, layout
from llm_bridge.settings import Settings
from llm_bridge.version import VERSION


def register(verbs: Subparsers, console: Console) -> None:
    text = console.text
    verb = verbs.add_parser("up", help=text("起動する（Ctrl-C で終了）", "start the service (Ctrl-C stops it)"))
    verb.set_defaults(call=up)
    verb = verbs.add_parser("status", help=text("動作状況を表示する", "show what is running"))
    verb.add_argument("--json", action="store_true", help=text("JSON で表示する", "print JSON"))
    verb.set_defaults(call=status)
    verb = verbs.add_parser("version", help=text("バージョンを表示する", "print the version"))
    verb.add_argument("--json", action="store_true", help=text("JSON で表示する", "print JSON"))
    verb.set_defaults(call=version)


def up(_args: argparse.Namespace, settings: Settings, _console: Console) -> int:
    from llm_bridge.serve import run  # the servers and the engine: far too heavy for `--help`

    return run(settings)


def version(args: argparse.Namespace, _settings: Settings, console: Console) -> int:
    if args.json:
        console.json({"version": VERSION})
    else:
        print(f"llm-bridge {VERSION}")
    return Exit.OK


def status(args: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Exit 0 when the service says it is ready, 1 when it runs but is not."""
    document = admin(settings, console).call("GET", "/status")
    if not isinstance(document, dict):
        document = {}
    if args.json:
        console.json(document)
    else:
        _print_status(document, console)
    return Exit.FAILED if document.get("ready") is False else Exit.OK


def _print_status(document: dict[str, Any], console: Console) -> None:
    text = console.text
    ready = document.get("ready") is not False
    state = console.paint(text("稼働中", "ready"), "32") if ready else console.paint(text("準備中", "not ready"), "33")
    rows = [("llm-bridge", f"{document.get('version', '?')} {duration(document.get('uptime_s'))}".strip())]
    rows += [(text("ゲートウェイ", "gateway"), f"http://{document['gateway']}")] if document.get("gateway") else []
    rows += [(text("管理API", "management"), f"http://{document['admin']}")] if document.get("admin") else []
    rows.append((text("モデル", "model"), _active(_part(document, "active"), console)))
    rows.append((text("エンジン", "engine"), _engine(_part(document, "engine"))))
    config = _part(document, "config")
    if config.get("path"):
        rows.append((text("設定", "config"), f"{config['path']} ({config.get('revision', '?')})"))
    if config.get("warning"):
        rows.append((text("警告", "warning"), str(config["warning"])))
    print(state)
    for line in layout(rows):
        print(line)


def _part(document: dict[str, Any], name: str) -> dict[str, Any]:
    part = document.get(name)
    return part if isinstance(part, dict) else {}


def _active(active: dict[str, Any], console: Console) -> str:
    if not active:
        return console.text("なし（llm-bridge use で選んでください）", "none (choose one with llm-bridge use)")
    line = str(active.get("name", "?"))
    if active.get("provider_model"):
        line += f" ({active['provider_model']})"
    if isinstance(active.get("in_flight"), int):
        line += console.text(f" 処理中 {active['in_flight']}", f" in flight {active['in_flight']}")
    return line


def _engine(engine: dict[str, Any]) -> str:
    line = f"{engine.get('kind', '?')}: {engine.get('state', '?')}"
    if engine.get("pid"):
        line += f" (pid {engine['pid']})"
    if engine.get("reason"):
        line += f" {engine['reason']}"
    return line


def duration(seconds: object) -> str:
    """`75` → `1m 15s`, the same in both languages."""
    if not isinstance(seconds, int | float) or seconds < 0:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{n}{unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")) if n]
    return " ".join(parts[:2]) or "0s"
