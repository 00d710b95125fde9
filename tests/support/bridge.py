"""The product as users start it: `llm-bridge up` in a process of its own, with a data directory of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from llm_bridge.supervisor import instance

ROOT = Path(__file__).parents[2]
JSON = {"content-type": "application/json"}
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback, whatever the machine's proxies are


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


def call(url: str, body: object = None, method: str | None = None, headers: dict[str, str] | None = None) -> Reply:
    """One HTTP request; an error status is a reply as well."""
    data = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
    request = urllib.request.Request(
        url, data, {**(JSON if data is not None else {}), **(headers or {})}, method=method
    )
    try:
        with _OPENER.open(request, timeout=60) as answer:
            return Reply(answer.status, dict(answer.headers.items()), answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, dict(error.headers.items()), error.read())


@dataclass
class Bridge:
    """A running bridge. `gateway` and `admin` are base URLs."""

    home: Path
    process: subprocess.Popen[bytes]
    log: Path
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def gateway(self) -> str:
        return f"http://127.0.0.1:{self.facts['gateway']}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.facts['admin']}"

    def chat(self, content: str, **fields: object) -> Reply:
        body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 200, **fields}
        return call(f"{self.gateway}/v1/chat/completions", body)

    def status(self) -> Any:
        return call(f"{self.admin}/status").json

    def engine_pid(self) -> int:
        return int(self.status()["engine"]["pid"])

    def stop(self, number: int = signal.SIGTERM, seconds: float = 40) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


def environment(home: Path, **settings: str) -> dict[str, str]:
    """A clean environment: nothing of the developer's own keys, config or proxies gets in."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "LLM_BRIDGE_HOME": str(home / "data"),
        "LLM_BRIDGE_GATEWAY": "127.0.0.1:0",
        "LLM_BRIDGE_ADMIN": "127.0.0.1:0",
        **{f"LLM_BRIDGE_{name.upper()}": value for name, value in settings.items()},
    }


def spawn(home: Path, environ: dict[str, str]) -> Bridge:
    """Start without waiting."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "bridge.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "llm_bridge", "up"],
            cwd=home,
            env=environ,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        )
    return Bridge(home / "data", process, log)


def until(condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
    """Wait for `condition`; fails when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


def wait_ready(bridge: Bridge, seconds: float = 30) -> Bridge:
    """Wait until both listeners answer and the local model serves."""
    note = bridge.home / "run" / "bridge.json"
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if bridge.process.poll() is not None:
            raise AssertionError(f"ended with {bridge.process.returncode}:\n{bridge.log.read_text()}")
        facts = instance.read(note)  # an earlier bridge that was killed has left its own
        if facts.get("pid") == bridge.process.pid:
            bridge.facts = facts
            if call(f"{bridge.gateway}/health/readiness").status == 200:
                return bridge
        time.sleep(0.02)
    raise AssertionError(f"not ready in {seconds} s:\n{bridge.log.read_text()}")


@contextlib.contextmanager
def running(home: Path, environ: dict[str, str] | None = None, **settings: str) -> Iterator[Bridge]:
    """A bridge that is ready; ended whatever happens."""
    bridge = spawn(home, {**environment(home, **settings), **(environ or {})})
    try:
        yield wait_ready(bridge)
    finally:
        if bridge.process.poll() is None:
            bridge.process.kill()
            bridge.process.wait(10)
