"""One child process, from spawn to its end.

Invariants
- Spawned by exec, never forked: a forked child would keep the listening ports after the bridge is gone.
- In a session of its own, so that Ctrl-C at the terminal reaches the bridge only.
- Its stdin is a pipe that only the bridge holds. The first line is its instructions (secrets included: never argv,
  never environment), and its end of file means that the bridge is gone and the child must end (E7).
- Its environment is the one given, nothing inherited.
- What it prints to stderr is always read, so it can never block on a full pipe; the last lines are kept.

Start children from the main thread: PR_SET_PDEATHSIG, which they set on themselves, fires when the *thread* that
spawned them ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from llm_bridge.supervisor import leftovers
from llm_bridge.supervisor.tail import Tail

Text = tuple[str, str]
"""The same sentence in Japanese and English."""

_HELLO_MAX = 16 * 1024
_LAST_WORDS = 0.5  # seconds to read stderr after the end; a grandchild may keep it open for ever


class ChildFailed(Exception):
    """The child could not be started or ended before it was ready. `reason` is (ja, en), `tail` its last lines."""

    def __init__(self, reason: Text, tail: tuple[str, ...] = ()) -> None:
        super().__init__(reason[1])
        self.reason = reason
        self.tail = tail


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run. `instructions` becomes one JSON line on stdin; `folder` (HOME/run) takes the record of the child."""

    kind: str
    argv: Sequence[str]
    env: Mapping[str, str]
    instructions: Mapping[str, Any]
    folder: Path


class Child:
    """A running child. Made by `start`; ends with `stop`, or by itself, which `wait` tells."""

    def __init__(self, process: asyncio.subprocess.Process, kind: str) -> None:
        self._process = process
        self._tail = Tail()
        self._record: Path | None = None
        self._reader = asyncio.create_task(self._drain_stderr(), name=f"{kind}-{process.pid}-stderr")

    @classmethod
    async def start(cls, launch: Launch) -> Self:
        """Spawn and hand over the instructions. Call `ready` next.

        Raises:
            ChildFailed: the program cannot be executed.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *launch.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=dict(launch.env),
                start_new_session=True,
                close_fds=True,
            )
        except OSError as cause:
            what = f"{launch.argv[0]}: {cause.strerror}"
            raise ChildFailed((f"プログラムを起動できません（{what}）", f"cannot run the program ({what})")) from None
        child = cls(process, launch.kind)
        try:
            await child._instruct(launch)
        except BaseException:
            await child.stop(0)
            raise
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines it printed to stderr, oldest first."""
        return self._tail.lines

    async def ready(self, limit: float) -> dict[str, Any]:
        """The JSON object the child prints as its first line when it is ready.

        Args:
            limit: seconds.

        Raises:
            ChildFailed: it ended first, printed something else, or took longer than `limit`.
        """
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101 - asked for at spawn
        try:
            async with asyncio.timeout(limit):
                line = await stdout.readline()
                if not line:
                    raise ChildFailed(await self.wait(), self.tail)
        except TimeoutError:
            took = (f"{limit:g} 秒以内に準備ができませんでした", f"it was not ready within {limit:g} s")
            raise ChildFailed(took, self.tail) from None
        try:
            hello = orjson.loads(line)
        except ValueError:
            hello = None
        if not isinstance(hello, dict) or len(line) > _HELLO_MAX:
            raise ChildFailed(("子プロセスの応答が不正です", "the child's greeting cannot be read"), self.tail)
        return hello

    async def wait(self) -> Text:
        """Wait for the end; returns how it ended. The tail is complete then. May be awaited by several tasks."""
        code = await self._process.wait()
        await asyncio.wait({self._reader}, timeout=_LAST_WORDS)
        return ending(code)

    async def stop(self, grace: float) -> None:
        """SIGTERM, `grace` seconds, SIGKILL to the whole group. Returns when it is gone, cancelled or not."""
        try:
            if self._process.returncode is None and grace > 0:
                self._signal(signal.SIGTERM)
                with suppress(TimeoutError):
                    async with asyncio.timeout(grace):
                        await self._process.wait()
        finally:
            self._signal(signal.SIGKILL)
            await self._process.wait()
            await asyncio.wait({self._reader}, timeout=_LAST_WORDS)
            self._reader.cancel()
            await asyncio.to_thread(self._forget)

    def _signal(self, number: signal.Signals) -> None:
        # While returncode is None the process is not reaped, so its pid (and the group of that number) is still its
        # own.
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    async def _instruct(self, launch: Launch) -> None:
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - asked for at spawn
        self._record = await asyncio.to_thread(leftovers.record, launch.folder, launch.kind, self.pid, os.getpid())
        stdin.write(orjson.dumps({**launch.instructions, "parent": os.getpid()}) + b"\n")
        with suppress(ConnectionError):  # it has ended already: `ready` says why
            await stdin.drain()

    async def _drain_stderr(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None  # noqa: S101 - asked for at spawn
        while data := await stderr.read(16 * 1024):
            self._tail.feed(data)
        self._tail.close()

    def _forget(self) -> None:
        if self._record is not None:
            self._record.unlink(missing_ok=True)


def ending(code: int) -> Text:
    """An exit status in words: negative is a signal. 137 and SIGKILL from outside mostly mean that memory ran out."""
    number = -code if code < 0 else code - 128 if code > 128 else 0
    try:
        name = signal.Signals(number).name if number else ""
    except ValueError:
        name = f"signal {number}"
    if name == "SIGKILL":
        return ("強制終了されました（SIGKILL、メモリ不足の可能性）", "it was killed (SIGKILL, possibly out of memory)")
    if name:
        return (f"異常終了しました（{name}）", f"it crashed ({name})")
    return (f"終了しました（exit code: {code}）", f"it ended (exit code: {code})")
