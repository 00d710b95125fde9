"""A listener: its connections, their deadlines, its beginning and its end."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import socket

from llm_bridge.errors import Unavailable
from llm_bridge.settings import Bind
from llm_bridge.wire.connection import Connection, Limits
from llm_bridge.wire.exchange import App, Exchange
from llm_bridge.wire.guard import Guard
from llm_bridge.wire.head import Head

_SWEEP = 0.5  # seconds between two looks at the deadlines
_SETTLE = 0.02  # seconds between two looks at who is still busy, while stopping


class Server:
    """One listener. `start` binds, `drain` ends."""

    def __init__(self, app: App, guard: Guard, limits: Limits | None = None, *, max_connections: int = 4096) -> None:
        self.app = app
        self.guard = guard
        self.limits = limits or Limits()
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.active: set[Exchange] = set()
        self.draining = False
        self._connections: set[Connection] = set()
        self._max = max_connections
        self._listeners: list[asyncio.Server] = []
        self._ids = itertools.count(1)
        self._boot = secrets.token_hex(4)
        self._sweeper: asyncio.TimerHandle | None = None
        self.port = 0

    async def start(self, bind: Bind) -> None:
        """Listen on `bind`.

        Raises:
            OSError: the port is in use or may not be bound.
        """
        await self.adopt(open_socket(bind))

    async def adopt(self, sock: socket.socket) -> None:
        """Listen on a socket that is bound already (so that all ports are taken before anything is served)."""
        self._listeners.append(await self.loop.create_server(lambda: Connection(self), sock=sock, backlog=2048))
        self.port = sock.getsockname()[1]
        self._sweep()

    def next_id(self) -> str:
        return f"{self._boot}-{next(self._ids):x}"

    def admit(self, connection: Connection) -> None:
        """Take a new connection; at the cap the one that has waited longest without a request makes room."""
        self._connections.add(connection)
        if len(self._connections) <= self._max:
            return
        idle = [c for c in self._connections if c.waiting and c is not connection]
        victim = min(idle, key=lambda c: c.deadline, default=connection)
        victim.abort()

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def _sweep(self) -> None:
        now = self.now()
        for connection in tuple(self._connections):
            connection.expire(now)
        self._sweeper = self.loop.call_later(_SWEEP, self._sweep)

    def accepting(self, head: Head) -> None:
        """While draining, new calls are told to come back; probes still get their honest answer.

        Raises:
            Unavailable: this process is about to end.
        """
        if self.draining and not head.path.startswith("/health"):
            raise _closing()

    async def drain(self, grace: float) -> int:
        """Let running requests end within `grace` seconds, end the rest with an error, then stop listening.

        The port stays open until the last request is done: a closed port would reset clients whose connection the
        kernel has already accepted.

        Returns:
            how many requests were ended by force.
        """
        self.draining = True
        for connection in self._connections:
            connection.keep_alive = False
        await self._settle(grace)
        left = len(self.active)
        for connection in tuple(self._connections):
            connection.end(_closing())
        await self._settle(1.0)
        for listener in self._listeners:
            listener.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in tuple(self._connections):
            connection.transport.close()
        return left

    async def _settle(self, seconds: float) -> None:
        """Wait until no connection is busy, at most `seconds`; also for requests that are still arriving."""
        for _ in range(int(seconds / _SETTLE) + 1):
            if not any(connection.busy for connection in self._connections):
                return
            await asyncio.sleep(_SETTLE)


def _closing() -> Unavailable:
    return Unavailable(reason=("サーバーを停止しています", "the server is shutting down"), retry_after=5)


def open_socket(bind: Bind) -> socket.socket:
    """A bound, not yet listening socket.

    Raises:
        OSError: the port is in use or may not be bound.
    """
    family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((bind.host, bind.port))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
