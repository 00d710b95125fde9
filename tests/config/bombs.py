"""Fifty hostile YAML texts. As a program: reads a folder of them; prints growth of RSS in MB, accepted, slowest."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from llm_bridge.config import yamltext
from llm_bridge.errors import ConfigInvalid

MIB = 1 << 20


def _laughs(width: int, levels: int, *, flow: bool) -> str:
    lines = ["a0: &a0 [x]"]
    for level in range(1, levels):
        refs = [f"*a{level - 1}"] * width
        lines.append(
            f"a{level}: &a{level} " + ("[" + ", ".join(refs) + "]" if flow else "\n  - " + "\n  - ".join(refs))
        )
    return "\n".join(lines)


def _bombs() -> list[str | bytes]:
    found: list[str | bytes] = [_laughs(width, 9, flow=flow) for width in (2, 9, 20) for flow in (True, False)]
    found += [mark * count for mark in ("[", "{", "- ", "? ", "[[", "{a: ", "- - ") for count in (33, 5_000, 200_000)]
    found += [(filler * MIB)[: MIB - 1] + "zz" for filler in ("a", "a: 1\n", "- 1\n", "# \n", " ", "\n")]
    found += ["[" + "1," * 400_000 + "1]", "- 1\n" * 200_000, "\n".join(f"k{i}: 1" for i in range(70_000))]
    found += ["a: [" + "{}," * 200_000 + "]", "a: " + "{b: " * 40 + "1" + "}" * 40, "? " * 500 + "a"]
    found += [
        "a: &x " + "y" * 900_000 + "\nb: [" + "*x," * 1000 + "]",
        "!" + "a" * 500_000 + " x",
        "&" + "a" * 500_000 + " x",
    ]
    found += ["<<: [&a {<<: *a}]", "a: &a [*a]", "%TAG ! tag:x,2000:\n---\n!x a: 1", "---\n" * 100_000]
    found += [b"\xff\xfe" + "a: &b [*b]".encode("utf-16-le"), b"\x00" * 1000, 'a: "' + "\\U00110000" * 50_000 + '"']
    found += ["a: !!binary " + "QUFB" * 200_000]
    return found


def write(folder: Path) -> int:
    """Write each bomb into a file of its own, so that the reading process holds one at a time. Returns their number."""
    bombs = _bombs()
    for index, bomb in enumerate(bombs):
        (folder / f"{index:03}.yaml").write_bytes(bomb if isinstance(bomb, bytes) else bomb.encode())
    return len(bombs)


def _peak() -> int:
    """The peak of resident memory in KiB; getrusage would count the parent's before exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def main(folder: Path) -> None:
    yamltext.read("a: [1, {b: 2}]\nc: |\n  text\n")
    before, accepted, slowest = _peak(), 0, 0.0
    for path in sorted(folder.iterdir()):
        bomb = path.read_bytes()
        began = time.perf_counter()
        try:
            yamltext.read(bomb)
            accepted += 1
        except ConfigInvalid:
            pass
        slowest = max(slowest, time.perf_counter() - began)
    grown = (_peak() - before) / 1024
    print(f"{grown:.1f}", accepted, f"{slowest:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
