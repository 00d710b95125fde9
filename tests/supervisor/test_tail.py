"""What is kept of a child's output."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm_bridge.supervisor.tail import Tail


@given(st.lists(st.binary(max_size=4000), max_size=60))
def test_is_bounded_and_printable_whatever_is_printed(pieces: list[bytes]) -> None:
    tail = Tail()
    for piece in pieces:
        tail.feed(piece)
    tail.close()
    assert len(tail.lines) <= 64
    assert sum(map(len, tail.lines)) <= 8 * 1024
    assert all(line.isprintable() for line in tail.lines)


@given(st.lists(st.text("abc ", min_size=1, max_size=30).filter(str.strip), max_size=30), st.integers(1, 9))
def test_lines_do_not_depend_on_how_the_bytes_arrive(lines: list[str], size: int) -> None:
    tail = Tail()
    data = "\n".join(lines).encode()
    for at in range(0, len(data), size):
        tail.feed(data[at : at + size])
    tail.close()
    assert tail.lines == tuple(line.rstrip() for line in lines)


def test_keeps_the_last_lines() -> None:
    tail = Tail()
    tail.feed(b"".join(b"line %d\n" % n for n in range(100)))
    assert tail.lines[0] == "line 36"
    assert tail.lines[-1] == "line 99"
