"""Runs `llm-bridge` as a process of its own, against scripted ports."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.cli.scripted import Scripted

Done = subprocess.CompletedProcess[str]
COMMAND = [sys.executable, "-m", "llm_bridge"]
FOREIGN = ("LLM_BRIDGE_", "LC_", "LANG", "LITELLM_", "NO_COLOR")


def environment(home: Path, **more: str) -> dict[str, str]:
    """This process's environment without anything that changes what the CLI says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return kept | {"LLM_BRIDGE_HOME": str(home), "LLM_BRIDGE_LANG": "ja"} | more


@dataclass
class Program:
    home: Path
    gateway: Scripted
    admin: Scripted

    def env(self, **more: str) -> dict[str, str]:
        ports = {
            "LLM_BRIDGE_GATEWAY": f"127.0.0.1:{self.gateway.port}",
            "LLM_BRIDGE_ADMIN": f"0.0.0.0:{self.admin.port}",
        }
        return environment(self.home, **(ports | {"LLM_BRIDGE_ALLOW_OPEN": "1"} | more))

    def __call__(self, *args: str, given: str | bytes = "", **env: str) -> Done:
        data = given.encode() if isinstance(given, str) else given
        done = subprocess.run(
            [*COMMAND, *args], input=data, capture_output=True, timeout=30, env=self.env(**env), cwd=self.home
        )
        return Done(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
