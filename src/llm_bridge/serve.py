"""The composition root: settings → config → pool → two listeners → run → drain."""

from __future__ import annotations

import asyncio
import errno
import gc
import importlib
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from llm_bridge.config.schema import ENVIRON, Config
from llm_bridge.config.store import ConfigStore
from llm_bridge.config.watch import watch
from llm_bridge.engines.llamacpp import LlamaCpp
from llm_bridge.errors import BridgeError, ConfigInvalid
from llm_bridge.gateway.app import Gateway
from llm_bridge.models.manager import Manager
from llm_bridge.models.pool import Pool
from llm_bridge.settings import Bind, SettingError, Settings
from llm_bridge.store.catalogue import Catalogue, builtin
from llm_bridge.supervisor import instance
from llm_bridge.telemetry import logs
from llm_bridge.version import VERSION
from llm_bridge.wire.asgi import AsgiApp
from llm_bridge.wire.guard import Guard
from llm_bridge.wire.head import Head
from llm_bridge.wire.keys import KeyCheck
from llm_bridge.wire.server import Server, open_socket

log = logging.getLogger("llm_bridge")
_ADMIN_BODY = 4 << 20  # bytes


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        the process's exit code.
    """
    logs.configure(settings.log_level, settings.secrets())
    try:
        _refuse_absent_engines(settings)
        with instance.locked(settings.home) as note:
            return uvloop.run(_Bridge(settings).serve(note))
    except instance.AlreadyRunningError as held:
        return _say(
            f"llm-bridge はすでに動いています: {held}。`llm-bridge status` で確認できます",
            f"llm-bridge is running already: {held}. See `llm-bridge status`",
        )
    except _PortTaken as taken:
        return _say(
            f"ポート {taken.bind} は使用中です: {taken.holder or '不明なプロセス'}。{taken.variable} で変更できます",
            f"port {taken.bind} is in use by {taken.holder or 'an unknown process'}; change it with {taken.variable}",
        )
    except instance.NoHomeError as problem:
        return _say(
            f"データの置き場所 {settings.home} を使えません: {problem}。LLM_BRIDGE_HOME で変更できます",
            f"the data directory {settings.home} cannot be used: {problem}; change it with LLM_BRIDGE_HOME",
        )
    except (ConfigInvalid, SettingError) as problem:
        return _say(problem.text("ja") if isinstance(problem, BridgeError) else str(problem), "")


def _refuse_absent_engines(settings: Settings) -> None:
    """Raises SettingError for an engine that this version does not have; says so where `auto` passes one over."""
    if settings.engine in ("ollama", "llama-server"):
        raise SettingError(
            f"LLM_BRIDGE_ENGINE={settings.engine} はこの版にはまだありません。embedded か auto を指定してください"
            f" / is not in this version yet; use embedded or auto"
        )
    if settings.engine == "auto" and settings.secret("OLLAMA_HOST"):
        log.warning("OLLAMA_HOST is set, but this version cannot use Ollama yet: the embedded engine runs")


def _say(ja: str, en: str) -> int:
    sys.stderr.write(f"{ja}\n{en}\n" if en else f"{ja}\n")
    return 1


class _PortTaken(RuntimeError):
    def __init__(self, bind: Bind, variable: str) -> None:
        super().__init__(str(bind))
        self.bind = bind
        self.variable = variable
        self.holder = instance.holder(bind.port)


def _sockets(settings: Settings) -> tuple[socket.socket, socket.socket]:
    """Both ports or none: a bridge that serves half of itself is harder to understand than one that refuses.

    Raises:
        _PortTaken: one of them is in use.
    """
    taken: list[socket.socket] = []
    for bind, variable in ((settings.gateway, "LLM_BRIDGE_GATEWAY"), (settings.admin, "LLM_BRIDGE_ADMIN")):
        try:
            taken.append(open_socket(bind))
        except OSError as cause:
            for sock in taken:
                sock.close()
            if cause.errno == errno.EADDRINUSE:
                raise _PortTaken(bind, variable) from None
            raise SettingError(f"{variable}={bind}: {cause.strerror}") from None
    return taken[0], taken[1]


class _Bridge:
    """The parts, in the order in which they come up and, backwards, go down."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._background: list[asyncio.Task[None]] = []

    async def serve(self, note: Path) -> int:
        """Come up, wait for a signal, go down. Returns the exit code."""
        settings = self._settings
        began = time.monotonic()
        gateway_socket, admin_socket = _sockets(settings)
        store = ConfigStore(settings.config_path, settings.home)
        config = store.open()
        settings = self._with_master_key(config)
        pool = Pool(settings)
        pool.configure(config)  # before anyone can ask: an unknown model is a 404, one that is not ready yet is a wait
        catalogue = Catalogue(settings.home / "models", builtin())
        manager = Manager(settings, store, catalogue, LlamaCpp(settings.environ, settings.home), pool)
        gateway = Server(Gateway(settings, pool, lambda: manager.ready and not self._stop.is_set()), self._guard())
        try:
            await gateway.adopt(gateway_socket)
            self._catch_signals()
            await manager.start()
            admin = await self._management(manager, store, catalogue, admin_socket)
            self._background.append(asyncio.create_task(watch(store, lambda _: _reload(manager)), name="config-watch"))
            ports = {"gateway": gateway.port, "admin": admin.port}
            instance.write(note, **ports, version=VERSION)
            _banner(settings, ports, config.default.name if config.default else "", time.monotonic() - began)
            gc.freeze()  # what lives for ever need not be looked at by every later collection
            await self._stop.wait()
            log.info("stopping: running requests get %d s", settings.grace)
            forced, _ = await asyncio.gather(gateway.drain(settings.grace), admin.drain(min(5, settings.grace)))
            if forced:
                log.warning("%d requests did not end within %d s and were ended with an error", forced, settings.grace)
        finally:
            for task in self._background:
                task.cancel()
            await manager.close(0)
        return 0

    def _with_master_key(self, config: Config) -> Settings:
        """The settings, with the key for the gateway taken from the config where the environment has none (LiteLLM's
        `general_settings.master_key`). It counts from the start of the process."""
        written = config.master_key
        if self._settings.api_key or not written:
            return self._settings
        key = self._settings.secret(written.removeprefix(ENVIRON)) if written.startswith(ENVIRON) else written
        if not key:
            raise SettingError(
                f"config.yaml の master_key が指す {written.removeprefix(ENVIRON)} が設定されていません"
                f" / {written.removeprefix(ENVIRON)}, named by master_key in config.yaml, is not set"
            )
        logs.configure(self._settings.log_level, (*self._settings.secrets(), key))
        return replace(self._settings, api_key=key)

    def _guard(self) -> Guard:
        return Guard(self._settings.allowed_hosts)

    async def _management(
        self, manager: Manager, store: ConfigStore, catalogue: Catalogue, sock: socket.socket
    ) -> Server:
        """The management listener. FastAPI takes half a second to import on a slow core, and the gateway answers
        meanwhile: so it is imported here, in a thread."""
        control: Any = await asyncio.to_thread(importlib.import_module, "llm_bridge.control.app")
        bridge = control.Bridge(self._settings, manager, store, catalogue, time.time())
        check = KeyCheck(self._settings.admin_key, "LLM_BRIDGE_ADMIN_KEY")

        def authorise(head: Head) -> None:  # nobody without the key gets us to read a body; the routes check the rest
            if head.has_body:
                check(head.fields)

        app = AsgiApp(control.create_app(bridge), authorise, _ADMIN_BODY, self._settings.language)
        server = Server(app, self._guard())
        await server.adopt(sock)
        return server

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        if self._stop.is_set():  # a second Ctrl-C means now
            os._exit(130)
        self._stop.set()


async def _reload(manager: Manager) -> None:
    try:
        await manager.reload()
    except BridgeError as problem:
        log.error("config.yaml changed and was not applied: %s", problem)
    else:
        log.info("config.yaml changed and was applied")


def _banner(settings: Settings, ports: dict[str, int], model: str, seconds: float) -> None:
    ja = settings.language == "ja"
    gateway, admin = (f"http://localhost:{ports[name]}" for name in ("gateway", "admin"))
    prompt = "こんにちは、自己紹介してください" if ja else "Hello, please introduce yourself"
    port = "" if ports["gateway"] == 8000 else f" --url {gateway}"
    rows = (
        ("ゲートウェイ" if ja else "gateway", f"{gateway}/v1"),
        ("管理API" if ja else "management", f"{admin}/docs"),
        ("モデル" if ja else "model", model),
        ("試す" if ja else "try", f'python run_llm.py{port} --model {model} --prompt "{prompt}"'),
        ("停止" if ja else "stop", "Ctrl-C"),
    )
    lines = [f"llm-bridge {VERSION} ({seconds:.2f} s)", *(f"  {name}: {value}" for name, value in rows)]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
