"""Real processes: greeting, environment, endings, leftovers."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import orjson
import psutil
import pytest

from llm_bridge.supervisor import leftovers
from llm_bridge.supervisor.child import Child, ChildFailed, Launch, ending
from llm_bridge.supervisor.identity import identify

GREET = (
    "import sys, json; spec = json.loads(sys.stdin.readline()); print(json.dumps({'port': 1, **spec}), flush=True); "
)
WAIT = GREET + "sys.stdin.read()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + GREET + "signal.pause()"


def launch(code: str, folder: Path, **env: str) -> Launch:
    return Launch("test", (sys.executable, "-I", "-c", code), env, {"secret": "s3"}, folder)


def records(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


async def test_greets_with_what_it_was_told_and_inherits_nothing(tmp_path: Path) -> None:
    code = GREET.replace("**spec", "**spec, 'env': sorted(__import__('os').environ)") + "sys.stdin.read()"
    child = await Child.start(launch(code, tmp_path, GIVEN="1"))
    hello = await child.ready(10)
    assert hello["secret"] == "s3"
    assert hello["parent"] == os.getpid()
    assert set(hello["env"]) <= {"GIVEN", "LC_CTYPE"}
    process = psutil.Process(child.pid)
    assert "s3" not in " ".join(process.cmdline())
    assert os.getsid(child.pid) == child.pid
    await child.stop(5)


async def test_a_record_exists_while_it_runs(tmp_path: Path) -> None:
    child = await Child.start(launch(WAIT, tmp_path))
    await child.ready(10)
    assert [path.name for path in records(tmp_path)] == [f"test-{child.pid}.json"]
    await child.stop(5)
    assert records(tmp_path) == []


async def test_the_end_of_stdin_ends_it(tmp_path: Path) -> None:
    child = await Child.start(launch(WAIT, tmp_path))
    await child.ready(10)
    assert child._process.stdin is not None
    child._process.stdin.close()
    assert (await child.wait())[1] == "it ended (exit code: 0)"
    await child.stop(0)


async def test_a_stubborn_one_is_killed(tmp_path: Path) -> None:
    child = await Child.start(launch(STUBBORN, tmp_path))
    await child.ready(10)
    await child.stop(0.05)
    assert identify(child.pid) is None


async def test_a_cancelled_stop_still_kills(tmp_path: Path) -> None:
    child = await Child.start(launch(STUBBORN, tmp_path))
    await child.ready(10)
    stop = asyncio.create_task(child.stop(60))
    await asyncio.sleep(0)
    stop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stop
    assert identify(child.pid) is None


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('no luck')", "it ended (exit code: 1)"),
        (GREET.replace("json.dumps", "str"), "the child's greeting cannot be read"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "it was killed (SIGKILL, possibly out of memory)"),
    ],
)
async def test_a_failed_greeting_says_why(tmp_path: Path, code: str, said: str) -> None:
    child = await Child.start(launch(code, tmp_path))
    with pytest.raises(ChildFailed) as caught:
        await child.ready(10)
    assert caught.value.reason[1] == said
    await child.stop(0)


async def test_the_tail_is_in_the_failure(tmp_path: Path) -> None:
    child = await Child.start(launch("import sys; sys.exit('no luck')", tmp_path))
    with pytest.raises(ChildFailed) as caught:
        await child.ready(10)
    assert caught.value.tail == ("no luck",)
    await child.stop(0)


async def test_too_slow_is_a_failure(tmp_path: Path) -> None:
    child = await Child.start(launch("import sys; sys.stdin.read()", tmp_path))
    with pytest.raises(ChildFailed, match="not ready within"):
        await child.ready(0.05)
    await child.stop(0)


async def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="cannot run the program"):
        await Child.start(Launch("test", ("/nonexistent/engine",), {}, {}, tmp_path))


def test_endings_name_the_signal() -> None:
    assert ending(-11)[1] == "it crashed (SIGSEGV)"
    assert ending(137)[1] == "it was killed (SIGKILL, possibly out of memory)"
    assert ending(3)[0] == "終了しました（exit code: 3）"
    assert ending(-200)[1] == "it crashed (signal 200)"


async def test_reaping_ends_what_a_dead_owner_left(tmp_path: Path) -> None:
    """The owner records a stubborn child, and is killed; the child ignores both SIGTERM and the end of stdin."""
    script = f"""
import subprocess, sys, os
from pathlib import Path
from llm_bridge.supervisor import leftovers
child = subprocess.Popen([sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"],
                         stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
leftovers.record(Path({str(tmp_path)!r}), "test", child.pid, os.getpid())
print(child.pid, flush=True)
sys.stdin.read()
"""
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    pid = int(await owner.stdout.readline())
    assert leftovers.reap(tmp_path) == 0, "its owner lives: not ours to end"
    owner.kill()
    await owner.wait()
    assert identify(pid) is not None
    assert leftovers.reap(tmp_path) == 1
    assert identify(pid) is None
    assert records(tmp_path) == []


async def test_a_reused_pid_is_not_killed(tmp_path: Path) -> None:
    child = await Child.start(launch(WAIT, tmp_path))
    await child.ready(10)
    path = records(tmp_path)[0]
    record = orjson.loads(path.read_bytes())
    record["owner"]["started"] += 1  # an owner that is gone
    record["child"]["started"] += 1  # and a child that was another process of the same number
    path.write_bytes(orjson.dumps(record))
    assert leftovers.reap(tmp_path) == 0
    assert identify(child.pid) is not None
    await child.stop(5)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"child": {"pid": "x"}}', b"\xff\xfe"])
def test_an_unreadable_record_is_dropped(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "engine-1.json").write_bytes(text)
    assert leftovers.reap(tmp_path) == 0
    assert records(tmp_path) == []
