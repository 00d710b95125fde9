"""Fifty hostile YAML texts; as a program it reads them all and prints count, growth of RSS in MB, accepted, slowest."""

from __future__ import annotations

import resource
import time

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
    found += [(filler * MIB)[: MIB + 1] for filler in ("a", "a: 1\n", "- 1\n", "# \n", " ", "\n")]
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


BOMBS = _bombs()


def main() -> None:
    yamltext.read("a: [1, {b: 2}]\nc: |\n  text\n")
    before, accepted, slowest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0, 0.0
    for bomb in BOMBS:
        began = time.perf_counter()
        try:
            yamltext.read(bomb)
            accepted += 1
        except ConfigInvalid:
            pass
        slowest = max(slowest, time.perf_counter() - began)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(len(BOMBS), f"{grown:.1f}", accepted, f"{slowest:.2f}")


if __name__ == "__main__":
    main()
