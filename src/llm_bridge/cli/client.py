"""The CLI's HTTP client: one request to a port of the service, errors turned into one line and an exit code.

It connects to the address itself and so never goes through a proxy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from ipaddress import ip_address
from typing import Any

from llm_bridge.cli.console import CliError, Console, Exit, exit_for, one_line
from llm_bridge.settings import Bind, Settings, variable

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 30.0
LOAD_TIMEOUT = 1800.0  # a large model on a slow disk
MAX_BODY = 64 << 20


@dataclass(frozen=True, slots=True)
class Client:
    """One port of the service."""

    bind: Bind
    key: str
    key_name: str
    console: Console

    def call(self, method: str, path: str, body: object = None, timeout: float = READ_TIMEOUT) -> Any:
        """Send a request and return the JSON of its answer."""
        with self.open(method, path, body, timeout) as response:
            raw = response.read(MAX_BODY)
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            raise self._stranger(response.status) from None

    @contextmanager
    def open(
        self, method: str, path: str, body: object = None, timeout: float = READ_TIMEOUT
    ) -> Iterator[HTTPResponse]:
        """Send a request; the block reads the answer, and leaving it closes the connection."""
        connection = self._connect(timeout)
        try:
            with suppress(BrokenPipeError):  # refused before it was all sent: the answer says why
                connection.request(method, path, self._encode(body), self._headers())
            response = connection.getresponse()
            if response.status >= 300:
                raise self._refused(response)
            yield response
        except BrokenPipeError:  # stdout's reader left while the block ran
            raise
        except TimeoutError:
            line = self.console.text("{s:g} 秒待っても応答がありません（{at}）", "No answer within {s:g} s from {at}")
            raise CliError(line.format(s=timeout, at=self.address)) from None
        except (HTTPException, ConnectionError) as cause:
            line = self.console.text("応答が途中で切れました（{why}）", "The answer was cut off ({why})")
            raise CliError(line.format(why=type(cause).__name__)) from None
        finally:
            connection.close()

    @property
    def address(self) -> str:
        return f"http://{self._target()}"

    def _target(self) -> Bind:
        """Where to connect for a bind: a listener on every address is reached over loopback."""
        if self.bind.host != "localhost" and ip_address(self.bind.host).is_unspecified:
            return Bind("::1" if ":" in self.bind.host else "127.0.0.1", self.bind.port)
        return self.bind

    def _connect(self, timeout: float) -> HTTPConnection:
        target = self._target()
        connection = HTTPConnection(target.host, target.port, timeout=CONNECT_TIMEOUT)
        try:
            connection.connect()
            connection.sock.settimeout(timeout)
        except OSError:
            line = self.console.text(
                "llm-bridge に接続できません（{at}）。起動してください: make up（または llm-bridge up）",
                "Cannot reach llm-bridge at {at}. Start it: make up (or llm-bridge up)",
            )
            raise CliError(line.format(at=self.address), Exit.UNREACHABLE) from None
        return connection

    def _encode(self, body: object) -> bytes | None:
        if body is None:
            return None
        # An argument that is not UTF-8 arrives as lone surrogates, which JSON cannot carry.
        text = json.dumps(body, ensure_ascii=False)
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json, text/event-stream", "Accept-Language": self.console.lang}
        headers["Content-Type"] = "application/json"
        if not self.key.isprintable():
            line = self.console.text("{name} に制御文字があります", "{name} holds control characters")
            raise CliError(line.format(name=self.key_name), Exit.USAGE)
        if self.key:  # as UTF-8: whatever it is, telling right from wrong is the server's business
            headers["Authorization"] = f"Bearer {self.key}".encode().decode("latin-1")
        return headers

    def _refused(self, response: HTTPResponse) -> CliError:
        try:
            body = json.loads(response.read(MAX_BODY))
        except (ValueError, RecursionError):
            body = None
        line = error_line(body)
        if not line:
            return self._stranger(response.status)
        code = exit_for(response.status, error_code(body))
        if response.status == 401 and error_code(body) in (None, "invalid_api_key") and self.key_name not in line:
            line += self.console.text(f"。{self.key_name} を設定してください", f". Set {self.key_name}")
        return CliError(line, code)

    def _stranger(self, status: int) -> CliError:
        line = self.console.text(
            "{at} の応答を読み取れません（HTTP {status}）。別のプログラムが使っているポートかもしれません",
            "Cannot read the answer of {at} (HTTP {status}). Another program may be using this port",
        )
        return CliError(line.format(at=self.address, status=status), exit_for(status))


def error_line(body: object) -> str:
    """The message of an error body: OpenAI's envelope or the management API's `detail`; empty when there is none."""
    if not isinstance(body, dict):
        return ""
    error = body.get("error") or body.get("detail") or ""
    if isinstance(error, dict):
        error = error.get("message") or ""
    return one_line(error if isinstance(error, str) else json.dumps(error, ensure_ascii=False))


def error_code(body: object) -> object:
    error = body.get("error") if isinstance(body, dict) else None
    return error.get("code") if isinstance(error, dict) else None


def admin(settings: Settings, console: Console) -> Client:
    return Client(settings.admin, settings.admin_key, variable("admin_key"), console)


def gateway(settings: Settings, console: Console) -> Client:
    return Client(settings.gateway, settings.api_key, variable("api_key"), console)
