"""run_llm.py as the users run it: a process of its own against a server that misbehaves on purpose."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.scripted import DONE, STREAM_HEAD, Scripted, answer, closed_port, event, openai_error, stream

SCRIPT = Path(__file__).parent.parent / "run_llm.py"
CHAT = ("POST", "/v1/chat/completions")
HELLO = "こんにちは😀！"


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LLM_BRIDGE_") and not k.lower().endswith("_proxy")}
    return kept | more


def command(server: Scripted, *args: str) -> list[str]:
    return [sys.executable, str(SCRIPT), "--url", server.url, *args]


def ask(server: Scripted, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    line = command(server, "--prompt", "こんにちは、自己紹介してください", *args)
    return subprocess.run(line, capture_output=True, text=True, timeout=30, env=environment(**env))


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One Japanese line on stderr, nothing else there, and this exit code."""
    assert done.returncode == code, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert any("ぁ" <= char <= "龠" for char in done.stderr)
    for word in words:
        assert word in done.stderr


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted() as scripted:
        yield scripted


def test_needs_nothing_but_an_old_python() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 8))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def test_sends_what_the_users_code_sends_and_prints_the_answer(server: Scripted) -> None:
    server.reply[CHAT] = stream(event("こん"), event("にちは"), DONE)
    done = ask(server, "--model", "smollm-tiny", "--system", "短く")
    assert (done.returncode, done.stdout, done.stderr) == (0, "こんにちは\n", "")
    assert server.requests[0].json == {
        "model": "smollm-tiny",
        "messages": [
            {"role": "system", "content": "短く"},
            {"role": "user", "content": "こんにちは、自己紹介してください"},
        ],
        "temperature": 0.7,
        "max_tokens": 500,
        "stream": True,
    }
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_the_place_where_packets_split_does_not_matter(server: Scripted, size: int, end: bytes) -> None:
    comment = b": loading 40%\n\nevent: message\nid: 1\n"
    data = (comment + event(HELLO) + b":\n\n" + event("二つ目") + DONE).replace(b"\n", end)
    server.reply[CHAT] = stream(data, size=size)
    done = ask(server)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{HELLO}二つ目\n", "")


def test_prints_pieces_when_they_arrive(server: Scripted) -> None:
    server.reply[CHAT] = stream(event("早い"), ended=False)
    server.hold = 20
    with subprocess.Popen(command(server, "--prompt", "x"), stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == "早い".encode()
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
    assert server.hung_up.wait(5)


def test_interrupt_leaves_one_line(server: Scripted) -> None:
    server.hold, server.reply[CHAT] = 20, [STREAM_HEAD]
    with subprocess.Popen(
        command(server, "--prompt", "x"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        while not server.requests:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=5)
    assert (process.returncode, out, err) == (130, "", "中断しました\n")


def test_a_reader_that_leaves_is_no_failure(server: Scripted) -> None:
    server.reply[CHAT] = stream(*[event("長い答え\n" * 50) for _ in range(200)], DONE)
    line = command(server, "--prompt", "x")
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(20), process.stderr.read()) == (0, b"")


def test_reads_the_question_from_a_pipe(server: Scripted) -> None:
    server.reply[CHAT] = stream(event("はい\n"), DONE)
    done = subprocess.run(
        command(server), input="標準入力から".encode() + b"\xff", capture_output=True, timeout=30, env=environment()
    )
    assert (done.returncode, done.stdout.decode()) == (0, "はい\n")
    assert server.requests[0].json["messages"][0]["content"] == "標準入力から\ufffd"


def test_without_streaming(server: Scripted) -> None:
    server.reply[CHAT] = answer(200, {"choices": [{"message": {"role": "assistant", "content": HELLO}}]})
    done = ask(server, "--no-stream")
    assert (done.returncode, done.stdout) == (0, f"{HELLO}\n")
    assert server.requests[0].json["stream"] is False


def test_key_and_address_from_the_environment(server: Scripted) -> None:
    server.reply[CHAT] = stream(event("ok"), DONE)
    line = [sys.executable, str(SCRIPT), "--prompt", "x"]
    env = environment(LLM_BRIDGE_URL=f"{server.url}/v1/", LLM_BRIDGE_API_KEY="sk-1")
    assert subprocess.run(line, timeout=30, env=env, capture_output=True).returncode == 0
    assert server.requests[0].headers["authorization"] == "Bearer sk-1"


def test_a_proxy_never_sees_loopback_traffic(server: Scripted) -> None:
    server.reply[CHAT] = stream(event("ok"), DONE)
    with Scripted() as proxy:
        assert ask(server, http_proxy=proxy.url, HTTP_PROXY=proxy.url, ALL_PROXY=proxy.url).returncode == 0
        assert proxy.requests == []


def test_a_redirect_is_not_followed_with_the_key(server: Scripted) -> None:
    with Scripted() as other:
        head = f"HTTP/1.1 302 X\r\nlocation: {other.url}/v1/chat/completions\r\ncontent-length: 0\r\n\r\n"
        server.reply[CHAT] = [head.encode()]
        refused(ask(server, "--api-key", "sk-1"), 1, "302")
        assert other.requests == []


def test_service_down() -> None:
    line = [sys.executable, str(SCRIPT), "--prompt", "x", "--url", f"http://127.0.0.1:{closed_port()}"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=30, env=environment())
    refused(done, 3, "接続できません", "make up", "docker-compose up -d")


def test_unknown_model(server: Scripted) -> None:
    text = "モデル nope は設定に存在しません。設定済みのモデル: bridge-mini, gpt-4o-mini"
    server.reply[CHAT] = openai_error(404, text, "model_not_found")
    refused(ask(server, "--model", "nope"), 4, text)


def test_wrong_key(server: Scripted) -> None:
    server.reply[CHAT] = openai_error(401, "APIキーがないか、正しくありません", "invalid_api_key")
    refused(ask(server), 5, "--api-key", "LLM_BRIDGE_API_KEY")


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (400, "invalid_request", 1),
        (401, "missing_provider_key", 5),
        (403, "forbidden", 5),
        (503, "engine_failed", 1),
        (503, "out_of_memory", 6),
        (507, "disk_full", 6),
        (504, "upstream_timeout", 1),
    ],
)
def test_the_services_own_words(server: Scripted, status: int, code: str, exit_code: int) -> None:
    server.reply[CHAT] = openai_error(status, "理由は\nこれです\x1b[31m", code)
    refused(ask(server), exit_code, "理由は これです")


def test_no_answer_in_time(server: Scripted) -> None:
    server.hold, server.reply[CHAT] = 5, []
    refused(ask(server, "--timeout", "0.3"), 1, "0.3 秒")


def test_silence_in_the_middle(server: Scripted) -> None:
    server.hold, server.reply[CHAT] = 5, stream(event("途中"), ended=False)
    done = ask(server, "--timeout", "0.3")
    assert done.stdout == "途中"
    refused(done, 1, "0.3 秒")


def test_error_in_the_middle(server: Scripted) -> None:
    broken = '{"error": {"message": "エンジンが停止しました", "code": "engine_failed"}}'
    server.reply[CHAT] = stream(event("途中"), f"data: {broken}\n\n".encode(), DONE)
    done = ask(server)
    assert done.stdout == "途中"
    refused(done, 1, "エンジンが停止しました")


WHOLE = STREAM_HEAD + b"".join(stream(event("あい"), event("うえ"), DONE)[1:])


@pytest.mark.parametrize("end", range(len(STREAM_HEAD), len(WHOLE) - 22, 23))
def test_a_truncated_stream_is_never_a_success(server: Scripted, end: int) -> None:
    server.reply[CHAT] = [WHOLE[:end]]
    refused(ask(server), 1, "途中で切れました")


def test_a_stream_that_ends_cleanly_without_done(server: Scripted) -> None:
    server.reply[CHAT] = stream(event("途中"))
    refused(ask(server), 1, "途中で切れました")


def test_the_connection_ends_before_the_answer(server: Scripted) -> None:
    server.reply[CHAT] = []
    refused(ask(server), 1, "途中で切れました")


@pytest.mark.parametrize(
    "data", [b"data: {nope\n\n", b"data: " + b"x" * (2 << 20) + b"\n\n", b"data: " + b"[" * 9999 + b"\n\n"]
)
def test_garbage_in_the_stream(server: Scripted, data: bytes) -> None:
    server.reply[CHAT] = stream(data, DONE)
    refused(ask(server), 1)


@pytest.mark.parametrize(
    ("packets", "code"),
    [
        (answer(200, b"<html>", "text/html"), 1),
        (answer(200, {"choices": []}), 1),
        (answer(404, b"<html>", "text/html"), 4),
        ([b"SSH-2.0-x\r\n"], 1),
    ],
)
def test_another_program_on_the_port(server: Scripted, packets: list[bytes], code: int) -> None:
    server.reply[CHAT] = packets
    refused(ask(server), code)


@pytest.mark.parametrize(
    "args",
    [
        ("--url", "ftp://x"),
        ("--url", "http://"),
        ("--url", "http://a..b"),
        ("--url", "http://x:99999"),
        ("--prompt", " "),
        ("--timeout", "0"),
        ("--api-key", "鍵"),
    ],
)
def test_unusable_options(server: Scripted, args: tuple[str, str]) -> None:
    refused(ask(server, *args), 2)
    assert server.requests == []


def test_prints_japanese_where_the_locale_is_plain_ascii(server: Scripted) -> None:
    server.reply[CHAT] = stream(event(HELLO), DONE)
    line = command(server, "--prompt", "x")
    env = environment(PYTHONIOENCODING="ascii", LC_ALL="C")
    done = subprocess.run(line, capture_output=True, timeout=30, env=env)
    assert (done.returncode, done.stdout.decode()) == (0, f"{HELLO}\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout(server: Scripted) -> None:
    server.reply[CHAT] = stream(event("x"), DONE)
    with Path("/dev/full").open("w") as full:
        line = command(server, "--prompt", "x")
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, env=environment())
    refused(done, 6)
