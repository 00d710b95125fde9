"""The embedded engine: llama.cpp's server in a child process, so that a native crash never reaches the bridge (E1)."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from llm_bridge.engines import cpu
from llm_bridge.engines.base import EngineSpec, Text
from llm_bridge.errors import EngineFailed
from llm_bridge.supervisor.child import Child, ChildFailed, Launch

_KIND = "engine"
_LOAD_LIMIT = 600.0  # seconds; a large model from a slow disk takes minutes
_STOP_GRACE = 1.0  # it has been drained before: nothing is left to finish
_SMALL = 64 << 20  # bytes
_PASSED = (  # what an engine may see of the bridge's environment: provider keys are not among them (B6)
    "PATH",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
)
_SET = {"GGML_NO_BACKTRACE": "1"}  # an assertion would otherwise start a debugger on itself, which may hang
_LOG_PREFIX = re.compile(r"^(?:\d+\.)+\d+ +([EWID]) +")
_WHERE = re.compile(r"^(?:srv|slot|cmn|[a-z_]\w*)\s*:?\s+[\w()]+: |^\w+: ")


class LlamaCpp:
    """The `Engine` that ships with the bridge.

    Args:
        environ: the bridge's environment; only a short allow-list of it is passed on.
        home: the data directory; children are recorded in ``run`` below it.
    """

    def __init__(self, environ: Mapping[str, str], home: Path) -> None:
        self._env = {name: environ[name] for name in _PASSED if name in environ} | _SET
        self._run = home / "run"

    async def start(self, spec: EngineSpec) -> Running:
        """See `Engine.start`."""
        reason = cpu.unsupported()
        if reason is not None:
            raise EngineFailed(reason=reason)
        key = secrets.token_urlsafe(32)
        try:
            child = await Child.start(self._launch(spec, key))
            try:
                hello = await child.ready(_LOAD_LIMIT)
                port = int(hello["port"])
            except BaseException:  # cancelled or failed: nothing may be left running
                await child.stop(0)
                raise
        except ChildFailed as failure:
            raise EngineFailed(reason=explain(failure.reason, failure.tail, loading=True)) from None
        return Running(child, spec, port, key)

    def _launch(self, spec: EngineSpec, key: str) -> Launch:
        instructions = {
            "path": str(spec.path),
            "alias": spec.name,
            "context": spec.context,
            "parallel": spec.parallel,
            "threads": spec.threads or _threads(spec.path),
            "key": key,
        }
        # -I: neither the working directory nor PYTHON* variables may put other code into the engine.
        argv = (sys.executable, "-I", "-m", "llm_bridge.engines.worker")
        return Launch(_KIND, argv, self._env, instructions, self._run)


def _threads(path: Path) -> int:
    """Threads for a model file: one for a small one, whose layers take less time than handing them to a second core."""
    try:
        small = path.stat().st_size < _SMALL
    except OSError:
        small = True
    return 1 if small else cpu.threads()


class Running:
    """A `RunningEngine`."""

    host = "127.0.0.1"

    def __init__(self, child: Child, spec: EngineSpec, port: int, key: str) -> None:
        self._child = child
        self.port = port
        self.key = key
        self.model = spec.name
        self.context = spec.context

    def __repr__(self) -> str:
        return f"Running(pid={self.pid}, model={self.model!r}, port={self.port})"

    @property
    def pid(self) -> int:
        return self._child.pid

    async def wait(self) -> Text:
        return explain(await self._child.wait(), self._child.tail, loading=False)

    async def stop(self) -> None:
        await self._child.stop(_STOP_GRACE)


def explain(reason: Text, tail: tuple[str, ...], *, loading: bool) -> Text:
    """The cause in one sentence: how it ended, and the line of its output that says why, if there is one."""
    line = useful_line(tail, loading=loading)
    if not line:
        return reason
    return (f"{reason[0]}: {line}", f"{reason[1]}: {line}")


def useful_line(tail: tuple[str, ...], *, loading: bool) -> str:
    """The line that names the cause, without the log's prefix; empty if none does.

    While loading that is the first error: what follows are its consequences. An engine that has served has logged
    errors of single requests, which did not end it, so there only a failed assertion or a line outside the log counts:
    what the C++ runtime and the interpreter print last.
    """
    asserted = [line for line in tail if "GGML_ASSERT" in line]
    logged = [line for line in tail if (mark := _LOG_PREFIX.match(line)) and mark[1] == "E" and line[mark.end() :]]
    other = [line for line in tail if not _LOG_PREFIX.match(line)][-1:]
    line = next(iter(asserted or (logged if loading else []) or other), "")
    return _WHERE.sub("", _LOG_PREFIX.sub("", line).removeprefix("E "))[:300]
