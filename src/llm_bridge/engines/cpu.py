"""What the processor can do, read before an engine is spawned: a missing instruction would be a bare SIGILL there."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from llm_bridge.engines.base import Text

_CPUINFO = Path("/proc/cpuinfo")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_REQUIRED = ("avx", "avx2", "fma", "f16c", "bmi2")  # what the published x86-64 build of the engine is compiled for


def missing_features(cpuinfo: str, machine: str) -> tuple[str, ...]:
    """Names of the required instruction sets this processor lacks; empty where they are known or cannot be read."""
    if machine not in ("x86_64", "AMD64"):
        return ()
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            flags = set(value.split())
            return tuple(feature for feature in _REQUIRED if feature not in flags)
    return ()


def unsupported() -> Text | None:
    """Why the embedded engine cannot run on this machine, or None if it can."""
    missing = missing_features(_read(_CPUINFO), platform.machine())
    if not missing:
        return None
    names = ", ".join(name.upper() for name in missing)
    return (
        f"このCPUには内蔵エンジンに必要な命令がありません: {names}。Ollama（LLM_BRIDGE_ENGINE=ollama）か、"
        "このCPU向けに作った llama-server を使ってください",
        f"this CPU lacks instructions the embedded engine needs: {names}. Use Ollama (LLM_BRIDGE_ENGINE=ollama) or a "
        "llama-server built for this CPU",
    )


def threads() -> int:
    """Threads that decode fastest: the physical cores this process may use, within a container's CPU quota."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = physical_cores(_read(_CPUINFO), allowed) or len(allowed)
    return max(1, min(cores, quota(_read(_QUOTA)) or cores))


def physical_cores(cpuinfo: str, allowed: set[int]) -> int:
    """Distinct cores among the logical processors in `allowed`; 0 where /proc/cpuinfo does not tell."""
    cores: set[tuple[str, str]] = set()
    for block in cpuinfo.split("\n\n"):
        fields = {
            name.strip(): value.strip() for name, _, value in (line.partition(":") for line in block.splitlines())
        }
        if fields.get("processor", "").isdigit() and int(fields["processor"]) in allowed and "core id" in fields:
            cores.add((fields.get("physical id", "0"), fields["core id"]))
    return len(cores)


def quota(text: str) -> int:
    """Whole CPUs in a cgroup's ``cpu.max`` ("200000 100000" is 2); 0 for no limit."""
    parts = text.split()
    if len(parts) != 2 or not parts[0].isdigit() or not parts[1].isdigit() or int(parts[1]) == 0:
        return 0
    return max(1, int(parts[0]) // int(parts[1]))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
