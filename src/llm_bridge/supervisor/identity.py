"""Which process a pid means. A pid alone is reused; with its start time and the boot it is unique.

Reads /proc; where there is none (macOS) every identity is unknown, and leftovers end by themselves through their stdin.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Identity:
    """`started` is in clock ticks since boot, `boot` the kernel's boot id, `argv` the command line."""

    pid: int
    started: int
    boot: str
    argv: tuple[str, ...]


def identify(pid: int) -> Identity | None:
    """The process that has `pid` now, or None if there is none (a zombie counts as none)."""
    try:
        # The second field, the name, is in parentheses and may itself hold spaces and parentheses.
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    if fields[0] in (b"Z", b"X"):
        return None
    argv = tuple(part.decode(errors="surrogateescape") for part in raw.rstrip(b"\0").split(b"\0"))
    return Identity(pid, int(fields[19]), boot, argv)


def kill(who: Identity, timeout: float) -> bool:
    """SIGKILL exactly this process and its group, and wait for its end. Returns whether it is gone.

    The pidfd is opened before the last check, so a pid reused in between is never hit.
    """
    try:
        handle = os.pidfd_open(who.pid)
    except (OSError, AttributeError):
        return identify(who.pid) != who
    try:
        if identify(who.pid) != who:
            return True
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        with suppress(OSError):
            os.killpg(who.pid, signal.SIGKILL)  # children of ours lead a session, so the group is theirs alone
        return bool(select.select([handle], [], [], timeout)[0])
    finally:
        os.close(handle)
