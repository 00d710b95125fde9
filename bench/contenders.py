"""Who is measured, and the upstream they all speak to."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

GATEWAY_CORE, LOAD_CORE = 0, 1
KEY = "bench-key"
BODY = json.dumps(
    {
        "model": "bench",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant that answers briefly and precisely. " * 3},
            {
                "role": "user",
                "content": "What are the four seasons of Japan like? Describe each of them shortly. " * 2,
            },
        ],
        "temperature": 0.7,
        "max_tokens": 500,
    }
)
ANSWER = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Spring. Summer. Autumn. Winter. " * 8},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140},
    }
)
_NGINX = """\
worker_processes 1; daemon off; pid {folder}/{name}.pid; error_log {folder}/{name}.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_buffer_size 128k;
  client_body_temp_path {folder}/{name}-body; proxy_temp_path {folder}/{name}-proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {rest}
}}
"""


@dataclass(frozen=True)
class Contender:
    """A server under load. `processes` are those whose CPU counts."""

    name: str
    url: str
    script: Path
    processes: tuple[psutil.Process, ...] = ()

    def cpu_seconds(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)

    def rss_mib(self) -> float:
        return sum(process.memory_info().rss for process in self.processes) / 2**20


def direct(peer: Contender) -> Contender:
    return Contender("direct", peer.url, peer.script)


@contextlib.contextmanager
def upstream(folder: Path) -> Iterator[Contender]:
    """nginx that answers every call with the same bytes: fast enough never to be the limit."""
    port = free_port()
    rest = (
        f"server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; return 200 '{ANSWER}'; }} }}"
    )
    with nginx(folder, "upstream", rest, port, LOAD_CORE) as processes:
        yield Contender("upstream", f"http://127.0.0.1:{port}", script(folder, "upstream"), processes)


@contextlib.contextmanager
def nginx_proxy(folder: Path, peer: Contender) -> Iterator[Contender]:
    port = free_port()
    origin = peer.url.removeprefix("http://")
    rest = (
        f"upstream peer {{ server {origin}; keepalive 64; keepalive_requests 100000000; }}\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://peer; proxy_http_version 1.1;"
        ' proxy_set_header Connection ""; } }'
    )
    with nginx(folder, "nginx", rest, port, GATEWAY_CORE) as processes:
        yield Contender("nginx", f"http://127.0.0.1:{port}", script(folder, "nginx"), processes)


@contextlib.contextmanager
def nginx(folder: Path, name: str, rest: str, port: int, core: int) -> Iterator[tuple[psutil.Process, ...]]:
    config = folder / f"{name}.conf"
    config.write_text(_NGINX.format(folder=folder, name=name, rest=rest))
    with started(["nginx", "-p", str(folder), "-c", str(config)], port, core, dict(os.environ)) as process:
        yield (process, *process.children())


@contextlib.contextmanager
def bridge(folder: Path, peer: Contender) -> Iterator[Contender]:
    """This product as it ships, with a key, in front of the same upstream."""
    home = folder / "bridge"
    home.mkdir(mode=0o700)
    (home / "config.yaml").write_text(
        "model_list:\n  - model_name: bench\n    litellm_params:\n      model: openai/bench\n"
        f"      api_base: {peer.url}/v1\n      api_key: sk-bench-upstream\n"
    )
    port = free_port()
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LLM_BRIDGE_HOME": str(home),
        "LLM_BRIDGE_GATEWAY": f"127.0.0.1:{port}",
        "LLM_BRIDGE_ADMIN": f"127.0.0.1:{free_port()}",
        "LLM_BRIDGE_API_KEY": KEY,
    }
    with started([sys.executable, "-m", "llm_bridge", "up"], port, GATEWAY_CORE, environ) as process:
        yield Contender("llm-bridge", f"http://127.0.0.1:{port}", script(folder, "bridge"), (process,))


@contextlib.contextmanager
def started(argv: list[str], port: int, core: int, environ: dict[str, str]) -> Iterator[psutil.Process]:
    """A pinned process that listens on `port`."""
    taskset = shutil.which("taskset") or "taskset"
    process = subprocess.Popen([taskset, "-c", str(core), *argv], env=environ, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{argv[0]} did not start")
            time.sleep(0.02)
        time.sleep(1.0)  # what it still does after it listens is not part of the measurement
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def script(folder: Path, name: str) -> Path:
    """wrk's description of the request."""
    path = folder / f"{name}.lua"
    path.write_text(
        'wrk.method = "POST"\nwrk.path = "/v1/chat/completions"\n'
        f"wrk.body = [==[{BODY}]==]\n"
        'wrk.headers["Content-Type"] = "application/json"\n'
        f'wrk.headers["Authorization"] = "Bearer {KEY}"\n'
    )
    return path


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
