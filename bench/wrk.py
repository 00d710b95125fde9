"""The load: wrk, pinned to the second core, posting one chat completion over and over."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

from bench.contenders import LOAD_CORE, Contender

_UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6}


@dataclass(frozen=True)
class Load:
    requests: int
    rate: float
    p50_us: float
    errors: int


def load(contender: Contender, connections: int, seconds: float) -> Load:
    """Run wrk against `contender` and read its report."""
    argv = ["taskset", "-c", str(LOAD_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency"]
    text = subprocess.run(
        [*argv, "-s", str(contender.script), contender.url],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 30,
    ).stdout
    total = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    p50 = re.search(r"50%\s+([\d.]+)(us|ms|s)", text)
    if total is None or rate is None or p50 is None:
        raise SystemExit(f"wrk's report was not understood:\n{text}")
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    errors = (int(bad[1]) if bad else 0) + (sum(map(int, sockets.groups())) if sockets else 0)
    return Load(int(total[1]), float(rate[1]), float(p50[1]) * _UNITS[p50[2]], errors)
