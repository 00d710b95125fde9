"""The engine child's main: ``python -m llm_bridge.engines.worker``.

Reads one JSON line from stdin (path, alias, context, parallel, threads, key, parent), loads the model into llama.cpp's
HTTP server on a loopback port of the system's choice, prints ``{"port": n}`` and then waits for the end of stdin.

It must never outlive the bridge (E7). Loading holds the interpreter lock for as long as it takes, so no Python thread
could watch stdin meanwhile: there the kernel's parent-death signal ends it, afterwards the end of stdin as well.

Imports nothing of the package, so that an engine is ready as fast as the interpreter starts.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1
_EXIT_ORPHAN, _EXIT_LOAD, _EXIT_IMPORT = 3, 4, 5
_BATCH = 2048  # tokens computed at once, which is also the longest single input of an embedding
_PROMPT_CACHE_MIB = 256
_HTTP_THREADS = 512
"""A kept-alive connection occupies a thread even while idle, and a request that finds none free waits until the server
drops an idle one, after 5 s. With the default of 6 threads, 64 clients saw answers after 50 s. A thread costs 8 KiB."""


def main() -> None:
    _die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold prompts and the key
    spec = json.loads(sys.stdin.buffer.readline())
    if os.getppid() != spec["parent"]:  # the parent died before the signal was set, so it will never come
        os._exit(_EXIT_ORPHAN)
    greeting = _private_stdout()
    server = _serve(spec)
    # The library takes over SIGINT and SIGTERM and would only end its own loop. The bridge drains before it stops a
    # child.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    port = int(server.listening_address.rpartition(":")[2])
    os.write(greeting, json.dumps({"port": port}).encode() + b"\n")
    os.close(greeting)
    sys.stdin.buffer.read()  # nothing more is ever sent: this ends when the bridge does
    os._exit(0)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _private_stdout() -> int:
    """Keep the real stdout for the greeting alone: whatever the library prints goes to stderr."""
    greeting = os.dup(1)
    os.dup2(2, 1)
    return greeting


def _serve(spec: dict[str, Any]) -> Any:
    try:
        import xllamacpp  # after the parent check: it is the slow part
    except ImportError as cause:
        os.write(2, f"E cannot import the engine: {cause}\n".encode())
        sys.exit(_EXIT_IMPORT)
    try:
        with open(spec["path"], "rb"):  # noqa: PTH123 - pathlib is a tenth of this process's start
            pass
    except OSError as cause:
        os.write(2, f"E cannot open the model: {cause.strerror}\n".encode())
        sys.exit(_EXIT_LOAD)
    try:
        return xllamacpp.Server(_parameters(xllamacpp, spec))
    except RuntimeError:
        # The reasons are on stderr already, or in the queue of the library's log thread, which a normal exit empties
        # (os._exit would lose them). A line of ours would end up in the middle of one of theirs.
        sys.exit(_EXIT_LOAD)


def _parameters(xllamacpp: Any, spec: dict[str, Any]) -> Any:
    p = xllamacpp.CommonParams()
    p.model.path = spec["path"]
    p.model_alias = {spec["alias"]}
    p.hostnames = ["127.0.0.1"]
    p.port = 0
    p.api_keys = [spec["key"]]
    # One cache for all sequences: with a cache for each, llama.cpp cuts a batch into pieces of equal length, and the
    # mean over an embedding's tokens is then taken over its last piece only. A test holds this.
    p.n_parallel = spec["parallel"]
    p.n_ctx = spec["context"] * spec["parallel"]
    p.kv_unified = True
    p.cpuparams.n_threads = spec["threads"]
    p.cpuparams_batch.n_threads = spec["threads"]
    # Embeddings and chat live in one server since pooling is applied per request; mean is what most models expect.
    p.embedding = True
    p.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    p.n_batch = p.n_ubatch = min(_BATCH, spec["context"])
    p.n_threads_http = _HTTP_THREADS
    p.cache_ram_mib = _PROMPT_CACHE_MIB
    p.warmup = False  # the bridge's self-test warms it up and checks the answer as well
    p.verbosity = 2  # warnings and errors
    p.ui = False
    p.endpoint_slots = p.endpoint_props = p.endpoint_metrics = False
    p.cors_origins = ""
    p.offline = True
    return p


if __name__ == "__main__":
    main()
