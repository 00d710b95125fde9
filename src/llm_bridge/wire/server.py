"""A listener: its connections, their deadlines, its beginning and its end."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import socket

from llm_bridge.errors import Unavailable
from llm_bridge.settings import Bind
from llm_bridge.wire.connection import Connection
from llm_bridge.wire.exchange import App, Exchange
from llm_bridge.wire.guard import Guard

_SWEEP = 0.5  # seconds between two looks at the deadlines


class Server:
    """One listener. `start` binds, `drain` ends."""

    def __init__(self, app: App, guard: Guard, *, max_connections: int = 4096) -> None:
        self.app = app
        self.guard = guard
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.active: set[Exchange] = set()
        self.counts: dict[int, int] = {}
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

    def count(self, exchange: Exchange) -> None:
        self.counts[exchange.status] = self.counts.get(exchange.status, 0) + 1

    def _sweep(self) -> None:
        now = self.now()
        for connection in tuple(self._connections):
            connection.expire(now)
        self._sweeper = self.loop.call_later(_SWEEP, self._sweep)

    async def drain(self, grace: float) -> int:
        """Stop listening, let running requests end within `grace` seconds, end the rest with an error.

        Returns:
            how many were ended by force.
        """
        self.draining = True
        for listener in self._listeners:
            listener.close()
        for connection in tuple(self._connections):
            connection.keep_alive = False
            if connection.waiting:
                connection.transport.close()
        tasks = [exchange.task for exchange in self.active if exchange.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        left = tuple(self.active)
        for exchange in left:
            reason = ("サーバーを停止しています", "the server is shutting down")
            exchange.interrupt(Unavailable(reason=reason, retry_after=5))
        tasks = [exchange.task for exchange in left if exchange.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in tuple(self._connections):
            connection.transport.close()
        return len(left)


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
