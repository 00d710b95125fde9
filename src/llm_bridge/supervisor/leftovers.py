"""Records of running children in HOME/run, so that the next start ends what a killed bridge left behind (E7).

A record names the child and its owner by identity, never by pid alone. A child whose owner still lives is left alone.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from llm_bridge.supervisor.identity import Identity, identify, kill

_GONE = 2.0  # seconds a killed process gets to disappear


def record(folder: Path, kind: str, child: int, owner: int) -> Path | None:
    """Write the record of a child of `kind`. Returns its path, or None where identities are unknown."""
    who, parent = identify(child), identify(owner)
    if who is None or parent is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}-{child}.json"
    draft = folder / f".{path.name}.new"  # never read as a record, not even half written
    draft.write_bytes(orjson.dumps({"child": asdict(who), "owner": asdict(parent)}))
    draft.replace(path)
    return path


def reap(folder: Path) -> int:
    """End every recorded child whose owner is gone. Returns how many still ran. Blocking, at most 2 s per child."""
    found = 0
    for path in sorted(folder.glob("*.json")):
        pair = _read(path)
        if pair is not None:
            child, owner = pair
            if identify(owner.pid) == owner:
                continue
            if identify(child.pid) == child:
                found += 1
                kill(child, _GONE)
        path.unlink(missing_ok=True)
    return found


def _read(path: Path) -> tuple[Identity, Identity] | None:
    try:
        data = orjson.loads(path.read_bytes())
        return _identity(data["child"]), _identity(data["owner"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a record that cannot be read names nobody


def _identity(data: dict[str, Any]) -> Identity:
    return Identity(int(data["pid"]), int(data["started"]), str(data["boot"]), tuple(map(str, data["argv"])))
