#!/usr/bin/env python3
"""llm-bridge に質問を一つ送り、答えを届いた順に表示します。標準ライブラリだけで動きます（Python 3.8 以降）。

    python run_llm.py --model smollm-tiny --prompt "こんにちは、自己紹介してください"
    echo "自己紹介してください" | python run_llm.py

終了コード: 0 成功、1 失敗、2 使い方の誤り、3 接続できない、4 モデルがない、5 キーの誤り、
6 メモリまたはディスクの不足、130 中断
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import errno
import ipaddress
import json
import os
import re
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

FAILED, USAGE, UNREACHABLE, NOT_FOUND, AUTH, NO_SPACE, INTERRUPTED = 1, 2, 3, 4, 5, 6, 130
EXIT_BY_STATUS = {401: AUTH, 403: AUTH, 404: NOT_FOUND, 507: NO_SPACE}
CHUNK = 65536
MAX_ANSWER = 32 << 20
MAX_EVENT = 1 << 20
# ESC などの制御文字をモデルが端末に送り込めないようにする（改行とタブは残す）
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class AskError(Exception):
    """利用者に見せる一行と終了コード。"""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(" ".join(CONTROL.sub(" ", message).split()))
        self.code = code


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """キーを別のホストへ送らないよう、転送には従わない。"""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def main(argv: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            ascii_only = codecs.lookup(stream.encoding or "ascii").name == "ascii"
            stream.reconfigure(encoding="utf-8" if ascii_only else stream.encoding, errors="replace")
    try:
        ask(options(argv))
    except AskError as problem:
        return fail(str(problem), problem.code)
    except KeyboardInterrupt:
        return fail("中断しました", INTERRUPTED)
    except BrokenPipeError:  # 読み手（head など）が先に閉じた。失敗ではない
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def fail(line: str, code: int) -> int:
    try:
        sys.stdout.flush()
    except OSError:  # 読み手がいない、またはディスクがいっぱい
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print(line, file=sys.stderr)
    return code


def options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="llm-bridge に質問を送り、答えを表示します。")
    parser.add_argument("--model", default="default", help="モデルの名前（既定: default = 設定の先頭）")
    parser.add_argument("--prompt", help="質問。省くと標準入力から読みます")
    parser.add_argument("--system", help="システムプロンプト")
    parser.add_argument("--temperature", type=float, default=0.7, help="既定: 0.7")
    parser.add_argument("--max-tokens", type=int, default=500, help="既定: 500")
    url = os.environ.get("LLM_BRIDGE_URL") or "http://localhost:8000"
    parser.add_argument("--url", default=url, help="既定: http://localhost:8000（環境変数 LLM_BRIDGE_URL）")
    parser.add_argument(
        "--api-key",
        default=os.environ.get("LLM_BRIDGE_API_KEY", ""),
        help="環境変数 LLM_BRIDGE_API_KEY でも指定できます",
    )
    parser.add_argument("--timeout", type=float, default=300.0, help="応答が届かないとき待つ秒数（既定: 300）")
    parser.add_argument("--no-stream", action="store_true", help="答えが全部そろってから表示します")
    args = parser.parse_args(argv)
    if args.prompt is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise AskError('--prompt "質問" を指定するか、標準入力から質問を渡してください', USAGE)
        args.prompt = sys.stdin.buffer.read().decode("utf-8", "replace")
    if not args.prompt.strip():
        raise AskError("質問が空です。--prompt に質問を書いてください", USAGE)
    if not (args.timeout > 0 and args.api_key.isascii() and args.api_key.isprintable()):
        raise AskError("--timeout には正の数を、--api-key には ASCII の文字列を指定してください", USAGE)
    args.base = base_url(args.url)
    return args


def base_url(url: str) -> str:
    """末尾の / と /v1 を取り除き、形を確かめる。"""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")  # UnicodeError も ValueError の一種
        usable = parts.scheme in ("http", "https") and host != b"" and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or any(c <= " " for c in url):
        raise AskError(f"--url {url} は使えません（例: http://localhost:8000）", USAGE)
    base = url.rstrip("/")
    return base[:-3] if base.endswith("/v1") else base


def ask(args: argparse.Namespace) -> None:
    try:
        with send(args) as response:
            last = ""
            for text in answer(response, stream=not args.no_stream):
                show(text)
                last = text
            if not last.endswith("\n"):
                show("\n")
    except urllib.error.HTTPError as error:
        raise refused(error) from None
    except (socket.timeout, HTTPException, OSError) as error:  # noqa: UP041 (3.8 では別の型)
        raise unreachable(error, args) from None


def send(args: argparse.Namespace) -> Any:
    messages = [{"role": "system", "content": args.system}] if args.system else []
    messages.append({"role": "user", "content": args.prompt})
    body = {
        "model": args.model,
        "messages": messages,
        "temperature": args.temperature,
        "max_tokens": args.max_tokens,
        "stream": not args.no_stream,
    }
    headers = {"Content-Type": "application/json", "Accept-Language": "ja"}
    if args.api_key:
        headers["Authorization"] = f"Bearer {args.api_key}"
    # 端末から来た不正なバイト列（surrogateescape）は置き換えてから送る
    data = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()
    request = urllib.request.Request(f"{args.base}/v1/chat/completions", data, headers)  # noqa: S310 (http(s) のみ)
    proxies = [urllib.request.ProxyHandler({})] if loopback(args.base) else []
    return urllib.request.build_opener(NoRedirect, *proxies).open(request, timeout=args.timeout)


def loopback(base: str) -> bool:
    host = urlsplit(base).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def show(text: str) -> None:
    try:
        sys.stdout.write(CONTROL.sub("", text) if sys.stdout.isatty() else text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise AskError(
            f"答えを書き出せません: {error.strerror}", NO_SPACE if error.errno == errno.ENOSPC else FAILED
        ) from None


def answer(response: Any, stream: bool) -> Iterator[str]:
    if stream and response.headers.get_content_type() == "text/event-stream":
        yield from streamed(response)
        return
    try:
        body = json.loads(response.read(MAX_ANSWER))
        text = body["choices"][0]["message"].get("content") or ""
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise AskError("応答を読み取れません。途中で切れたか、--url が llm-bridge を指していません") from None
    yield str(text)


def streamed(response: Any) -> Iterator[str]:
    """[DONE] まで本文の断片を返す。[DONE] の前に終わった応答は成功とみなさない。"""
    for data in events(response):
        if data.strip() == "[DONE]":
            return
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            raise AskError("応答の途中に読み取れないデータがありました") from None
        if not isinstance(event, dict):
            continue
        if event.get("error"):
            raise AskError(f"応答の途中でエラーが発生しました: {reason(event)}", exit_code(event, 0))
        for choice in event.get("choices") or []:
            text = (choice.get("delta") or {}).get("content")
            if text:
                yield str(text)
    raise AskError("応答が途中で切れました（最後まで届いていません）")


def events(response: Any) -> Iterator[str]:
    """SSE の data を一件ずつ返す。行も文字も、どこで区切られて届いてもよい。コメント行（:）は読み飛ばす。"""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pending, data, size, after_cr = "", [], 0, False
    while True:
        chunk = response.read1(CHUNK)
        text = decoder.decode(chunk, final=not chunk)
        if text:
            # 前の断片が \r で終わり、この断片が \n で始まるなら、それは一つの改行
            text, after_cr = text[after_cr and text[0] == "\n" :], text[-1] == "\r"
        *lines, pending = re.split("\r\n|\n|\r", pending + text)
        for line in lines:
            if line.startswith("data:"):
                data.append(line[6:] if line.startswith("data: ") else line[5:])
                size += len(line)
            elif not line and data:
                yield "\n".join(data)
                data, size = [], 0
        if size + len(pending) > MAX_EVENT:
            raise AskError("応答の一行が大きすぎます")
        if not chunk:
            return


def reason(body: Any) -> str:
    error = body.get("error", body.get("detail")) if isinstance(body, dict) else None
    if isinstance(error, dict):
        error = error.get("message")
    return str(error) if error else "理由は示されませんでした"


def error_code(body: Any) -> Any:
    error = body.get("error") if isinstance(body, dict) else None
    return error.get("code") if isinstance(error, dict) else None


def exit_code(body: Any, status: int) -> int:
    return NO_SPACE if error_code(body) in ("out_of_memory", "disk_full") else EXIT_BY_STATUS.get(status, FAILED)


def refused(error: urllib.error.HTTPError) -> AskError:
    """HTTP のエラー応答を一行にする。"""
    body: Any = None
    with contextlib.suppress(ValueError, RecursionError, HTTPException, OSError):
        body = json.loads(error.read(CHUNK))
    if not isinstance(body, dict) or not (body.get("error") or body.get("detail")):
        where = "--url が llm-bridge を指しているか確かめてください"
        return AskError(f"HTTP {error.code} が返りました。{where}", exit_code(body, error.code))
    text = reason(body)
    if error_code(body) == "invalid_api_key":
        text += "。--api-key か環境変数 LLM_BRIDGE_API_KEY で指定してください"
    return AskError(text, exit_code(body, error.code))


def unreachable(error: Exception, args: argparse.Namespace) -> Exception:
    if isinstance(error, BrokenPipeError):
        return error
    if isinstance(error, urllib.error.URLError):
        down = isinstance(error.reason, ConnectionRefusedError)
        advice = "起動してください: make up（Docker の場合: docker-compose up -d）" if down else str(error.reason)
        return AskError(f"llm-bridge に接続できません（{args.base}）。{advice}", UNREACHABLE)
    if isinstance(error, socket.timeout):
        return AskError(f"{args.timeout:g} 秒待っても応答がありません（{args.base}）。--timeout で延ばせます")
    return AskError(f"応答が途中で切れました（{type(error).__name__}）")


if __name__ == "__main__":
    sys.exit(main())
