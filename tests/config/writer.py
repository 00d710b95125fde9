"""A process that edits a config and is killed. Acknowledges each change on stdout, after `write` has returned.

python -m tests.config.writer once HOME     one edit between two marks that a trace of system calls shows
python -m tests.config.writer zygote HOME   for each line read, a fork that edits until it is killed; prints its pid
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from llm_bridge.config import edit, yamltext
from llm_bridge.config.edit import Editor
from llm_bridge.config.store import ConfigStore
from llm_bridge.models.change import edited

BEGIN, END = "/mark-begin", "/mark-end"
_LOADED = (edit, yamltext)  # so that no import lies between the marks


def change(number: int) -> Callable[[Editor], None]:
    def apply(editor: Editor) -> None:
        editor.put_model("counter", f"openai/n{number}")

    return apply


def once(home: Path) -> None:
    store = ConfigStore(home / "config.yaml", home)
    store.open()
    store.validate((home / "config.yaml").read_text())
    os.access(BEGIN, os.F_OK)
    config = edited(store, change(1)).write(store)
    os.access(END, os.F_OK)
    os.write(1, f"{config.revision}\n".encode())


def forever(home: Path, output: int) -> None:
    store, number = ConfigStore(home / "config.yaml", home), 0
    store.open()
    while True:
        number += 1
        os.write(output, f"{edited(store, change(number)).write(store).revision}\n".encode())


def zygote() -> None:
    for line in sys.stdin:
        home, output = line.split()
        pid = os.fork()
        if pid == 0:
            forever(Path(home), os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "once":
        once(Path(sys.argv[2]))
    else:
        zygote()
