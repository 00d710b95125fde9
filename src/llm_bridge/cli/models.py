"""`ls`, `use`, `import`: the models the service knows and which one is active."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from llm_bridge.cli.client import LOAD_TIMEOUT, admin
from llm_bridge.cli.console import CliError, Console, Exit, Subparsers, one_line
from llm_bridge.settings import Settings


def register(verbs: Subparsers, console: Console) -> None:
    text = console.text
    as_json = text("JSON で表示する", "print JSON")
    verb = verbs.add_parser("ls", help=text("モデルの一覧を表示する", "list the models"))
    verb.add_argument("--json", action="store_true", help=as_json)
    verb.set_defaults(call=ls)

    verb = verbs.add_parser("use", help=text("モデルを切り替える、または追加する", "switch to a model, or add one"))
    verb.add_argument("name", metavar="NAME", help=text("設定でのモデルの名前", "the model's name in the config"))
    verb.add_argument(
        "provider_model",
        metavar="PROVIDER/MODEL",
        nargs="?",
        help=text("追加するモデル（例: ollama/bridge-mini）", "add this model, for example ollama/bridge-mini"),
    )
    verb.add_argument(
        "--no-restart",
        action="store_true",
        help=text("設定だけ書き、いまは適用しない", "write the config only, do not apply it now"),
    )
    verb.add_argument("--json", action="store_true", help=as_json)
    verb.set_defaults(call=use)

    verb = verbs.add_parser("import", help=text(".gguf ファイルを取り込む", "import a .gguf file"))
    verb.add_argument("file", metavar="FILE", type=Path, help=text("取り込むファイル", "the file to import"))
    verb.add_argument("--name", help=text("名前（既定: ファイル名）", "its name (default: from the file name)"))
    verb.add_argument("--json", action="store_true", help=as_json)
    verb.set_defaults(call=import_file)


def ls(args: argparse.Namespace, settings: Settings, console: Console) -> int:
    models = admin(settings, console).call("GET", "/models")
    if args.json:
        console.json(models)
        return Exit.OK
    known = models if isinstance(models, list) else []
    text = console.text
    header = [text("名前", "NAME"), text("種類", "TYPE"), text("サイズ", "SIZE"), text("設定済み", "CONFIGURED")]
    rows = [_row(model, console) for model in known if isinstance(model, dict)]
    console.table([*header, text("状態", "STATE")], rows)
    return Exit.OK


def _row(model: dict[str, Any], console: Console) -> list[str]:
    text = console.text
    configured = text("はい", "yes") if model.get("configured") else "-"
    states = [text("使用可", "ready")] if model.get("active") else []
    states += [text("既定", "default")] if model.get("default") else []
    name, kind, size = (str(model.get(key, "?")) for key in ("name", "type", "size"))
    return [name, kind, size, configured, " ".join(states)]


def use(args: argparse.Namespace, settings: Settings, console: Console) -> int:
    body: dict[str, object] = {"model_name": args.name, "no_restart": args.no_restart}
    if args.provider_model is not None:
        body["provider_model"] = args.provider_model
    answer = _changed("/models/manage", body, args.json, settings, console)
    removed = answer.get("removed")
    if isinstance(removed, list) and removed and not args.json:
        names = ", ".join(map(str, removed))
        print(one_line(console.text(f"設定から外れたモデル: {names}", f"Taken out of the configuration: {names}")))
    return Exit.OK


def import_file(args: argparse.Namespace, settings: Settings, console: Console) -> int:
    """FILE is looked for here, then in the import folder."""
    path = next((p for p in (args.file.absolute(), settings.imports / args.file) if p.is_file()), None)
    if path is None:
        line = console.text(f"ファイルがありません: {args.file}", f"There is no such file: {args.file}")
        raise CliError(line, Exit.NOT_FOUND)
    inside = path.is_relative_to(settings.imports)
    body = {"path": str(path.relative_to(settings.imports) if inside else path)}
    body |= {"name": args.name} if args.name else {}
    answer = _changed("/models/import", body, args.json, settings, console)
    if answer.get("model_name") and answer.get("provider_model") and not args.json:
        print(one_line(f"llm-bridge use {answer['model_name']} {answer['provider_model']}"))
    return Exit.OK


def _changed(path: str, body: object, as_json: bool, settings: Settings, console: Console) -> dict[str, Any]:
    """Ask for a change, print what the service says about it, and return that."""
    answer = admin(settings, console).call("POST", path, body, LOAD_TIMEOUT)
    answer = answer if isinstance(answer, dict) else {}
    if as_json:
        console.json(answer)
    else:
        print(one_line(str(answer.get("message") or console.text("完了しました", "Done"))))
    return answer
