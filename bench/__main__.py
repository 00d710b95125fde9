"""`make bench`: this gateway beside nginx, in one run, each pinned to one core with load and upstream on the other.

Prints medians over interleaved rounds and their ratios; absolute times of a shared machine mean little. nginx here is
`proxy_pass` with pooled upstream connections: no JSON, no keys, no model names. It is the limit, not a competitor.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from bench.contenders import BODY, Contender, bridge, direct, nginx_proxy, upstream
from bench.wrk import Load, load

NEEDED = {"nginx": "nginx-light", "wrk": "wrk", "taskset": "util-linux"}


@dataclass(frozen=True)
class Row:
    """Medians of one contender at one number of connections."""

    name: str
    connections: int
    rate: float
    p50_us: float
    cpu_us: float
    rss_mib: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load per measurement")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--json", type=Path, help="write the medians here, too")
    options = parser.parse_args()
    missing = [f"{tool} (Debian: {package})" for tool, package in NEEDED.items() if shutil.which(tool) is None]
    if missing:
        print(f"make bench needs: {', '.join(missing)}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options)
    report(rows, options.rounds)
    if options.json:
        options.json.write_text(json.dumps([row.__dict__ for row in rows], indent=1) + "\n")
    return 0


def measure(folder: Path, options: argparse.Namespace) -> list[Row]:
    with upstream(folder) as peer, nginx_proxy(folder, peer) as proxy, bridge(folder, peer) as ours:
        contenders = (direct(peer), proxy, ours)
        runs: defaultdict[tuple[str, int], list[tuple[Load, float]]] = defaultdict(list)
        for contender in contenders:
            load(contender, 16, 1.0)  # warm
        for _ in range(options.rounds):
            for connections in options.connections:
                for contender in contenders:
                    runs[contender.name, connections].append(one(contender, connections, options.seconds))
        return [
            Row(
                name,
                connections,
                statistics.median(got.rate for got, _ in found),
                statistics.median(got.p50_us for got, _ in found),
                statistics.median(cpu for _, cpu in found),
                next(c for c in contenders if c.name == name).rss_mib(),
            )
            for (name, connections), found in runs.items()
        ]


def one(contender: Contender, connections: int, seconds: float) -> tuple[Load, float]:
    """One measurement: the load's result, and the contender's CPU microseconds per request."""
    before = contender.cpu_seconds()
    got = load(contender, connections, seconds)
    if got.errors:
        raise SystemExit(f"{contender.name}: {got.errors} of {got.requests} requests failed, so nothing is comparable")
    return got, (contender.cpu_seconds() - before) / got.requests * 1e6


def report(rows: list[Row], rounds: int) -> None:
    print(f"chat completion, {len(BODY)} byte request; medians of {rounds} interleaved rounds")
    titles = ("conns", "req/s", "p50 us", "CPU us/req", "RSS MiB", "CPU / nginx", "rate / nginx")
    print(f"{'gateway':<14}" + "".join(f"{title:>13}" for title in titles))
    for row in rows:
        reference = next(r for r in rows if r.name == "nginx" and r.connections == row.connections)
        values = (
            str(row.connections),
            f"{row.rate:.0f}",
            f"{row.p50_us:.0f}",
            f"{row.cpu_us:.1f}",
            f"{row.rss_mib:.0f}",
            f"{row.cpu_us / reference.cpu_us:.2f}" if row.cpu_us else "-",
            f"{row.rate / reference.rate:.2f}",
        )
        print(f"{row.name:<14}" + "".join(f"{value:>13}" for value in values))


if __name__ == "__main__":
    sys.exit(main())
