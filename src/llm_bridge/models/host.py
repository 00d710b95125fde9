"""Runs the one local engine: does what `switch` commands, tells it what happened.

Invariants
- At most one engine is starting at any time, whether for a switch or for a restart.
- Every engine that was started is stopped: it serves, is the candidate of the running switch, or is being retired by a
  task.
- Only the death of the engine that serves is an event; a candidate's death fails its switch.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from llm_bridge.engines.base import Engine, RunningEngine
from llm_bridge.errors import BridgeError, ConnectFailed, EngineFailed, UpstreamFailed, UpstreamTimeout
from llm_bridge.models.generation import Generation
from llm_bridge.models.pool import Pool
from llm_bridge.models.selftest import calls_tools, self_test
from llm_bridge.models.switch import Command, Event, State, step
from llm_bridge.models.target import Target
from llm_bridge.supervisor.backoff import Backoff
from llm_bridge.wire.client import Upstream

log = logging.getLogger(__name__)

_OBITUARY = 1.0  # seconds to learn why an engine broke off its self-test


class Host:
    """The engine and its life. Plain methods are events; nothing else changes the state."""

    def __init__(self, engine: Engine, pool: Pool, grace: float, backoff: Backoff | None = None) -> None:
        self._engine = engine
        self._pool = pool
        self._grace = grace
        self._state = State(backoff=backoff or Backoff())
        self._target: Target | None = None
        self._serving: Generation | None = None
        self._previous: Generation | None = None
        self._candidate: Generation | None = None
        self._failure: EngineFailed | None = None
        self._start: asyncio.Task[None] | None = None
        self._due: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._hurry = asyncio.Event()
        self._count = 0
        self._actions: dict[Command, Callable[[], None]] = {
            Command.START: self._do_start,
            Command.CANCEL_START: self._do_cancel_start,
            Command.SCHEDULE: self._do_schedule,
            Command.CANCEL_DUE: self._do_cancel_due,
            Command.SERVE: self._do_serve,
            Command.RETIRE: self._do_retire,
            Command.HOLD: pool.hold,
            Command.REFUSE: self._do_refuse,
            Command.VACATE: self._do_vacate,
        }

    # -- what the manager asks for

    def want(self, target: Target) -> None:
        """Run `target`, with restarts until it is given up. Returns at once; leases wait for it."""
        self._target = target
        self._event(Event.WANT)

    def unusable(self, reason: BridgeError) -> None:
        """The configured model cannot be tried at all."""
        self.note(reason)
        self._event(Event.UNUSABLE)

    def runs(self, target: Target) -> bool:
        """Whether exactly `target` serves now."""
        return self._state.serving and self._target == target

    @asynccontextmanager
    async def candidate(self, target: Target) -> AsyncIterator[Generation]:
        """Start and test an engine for `target` beside the one that serves. The block ends with `commit`, or the
        candidate is stopped and all is as before.

        Raises:
            EngineFailed: it could not be started or failed its test.
        """
        self._event(Event.BEGIN)
        generation = None
        try:
            await self._settled()
            self._candidate = generation = await self._launch(target)
            yield generation
        finally:
            if generation is None or self._candidate is generation:  # not committed
                self._candidate = None
                self._event(Event.ABORT)
                if generation is not None:
                    await self._end(generation, grace=0)

    def commit(self, candidate: Generation, target: Target) -> None:
        """From now on `candidate` serves; the previous engine drains and stops."""
        self._previous, self._serving, self._target, self._candidate = self._serving, candidate, target, None
        self._event(Event.COMMIT)

    def clear(self) -> None:
        """There is no local model any more."""
        self._previous, self._serving, self._target = self._serving, None, None
        self._event(Event.CLEAR)

    async def drained(self) -> None:
        """Wait until no earlier engine is left."""
        while self._retiring:
            await asyncio.wait(self._retiring)

    async def close(self, grace: float) -> None:
        """Stop everything; requests that run get `grace` seconds, those on an earlier engine too."""
        asyncio.get_running_loop().call_later(grace, self._hurry.set)
        self.clear()
        await self._settled()
        await self.drained()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def status(self) -> dict[str, Any]:
        """Plain data for /status. `last_error` is {"ja", "en"} or None."""
        serving, failure = self._serving, self._failure
        return {
            "engine": self._state.phase.value,
            "switching": self._state.switching,
            "model": self._target.model if self._target else None,
            "context": self._target.spec.context if self._target else None,
            "generation": serving.number if serving else 0,
            "pid": serving.engine.pid if serving else None,
            "in_flight": serving.in_flight if serving else 0,
            "waiting": self._pool.waiting,
            "draining": len(self._retiring),
            "failures": self._state.backoff.failures,
            "last_error": {"ja": failure.text("ja"), "en": failure.text("en")} if failure else None,
        }

    @property
    def state(self) -> State:
        return self._state

    def note(self, reason: BridgeError) -> None:
        """Remember why the last attempt failed, for status."""
        if not isinstance(reason, EngineFailed):
            reason = EngineFailed(reason=(reason.text("ja"), reason.text("en")))
        self._failure = reason

    # -- the machine

    def _event(self, event: Event, ran: float = 0.0) -> None:
        before = self._state
        self._state, commands = step(before, event, ran)
        log.debug("engine: %s %s -> %s", event.name, before.phase.value, self._state.phase.value)
        for command in commands:
            self._actions[command]()

    def _do_start(self) -> None:
        self._start = asyncio.create_task(self._run_start(), name="engine-start")

    def _do_cancel_start(self) -> None:
        if self._start is not None:
            self._start.cancel()

    def _do_schedule(self) -> None:
        delay = self._state.backoff.delay
        self._due = asyncio.get_running_loop().call_later(delay, self._event, Event.DUE)

    def _do_cancel_due(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _do_serve(self) -> None:
        generation = self._serving
        if generation is None:
            raise RuntimeError("nothing to serve")
        self._failure = None
        self._pool.serve(generation)
        log.info("model %s is ready (engine %d)", generation.engine.model, generation.number)
        self._keep(asyncio.create_task(self._watch(generation), name=f"engine-watch-{generation.number}"), self._tasks)

    def _do_retire(self) -> None:
        generation, self._previous = self._previous, None
        if generation is not None:
            self._retire(generation)

    def _do_refuse(self) -> None:
        self._pool.refuse(self._failure or EngineFailed(reason=("原因不明", "unknown cause")))

    def _do_vacate(self) -> None:
        reason = ("ローカルモデルは動いていません", "no local model is running")
        self._pool.refuse(EngineFailed(reason=reason))

    # -- engines

    async def _launch(self, target: Target) -> Generation:
        """Start and self-test an engine. A failure or a cancellation leaves nothing behind."""
        engine = await self._engine.start(target.spec)
        bearer = ("authorization", f"Bearer {engine.key}")
        upstream = Upstream(engine.host, engine.port, headers=(bearer,))
        try:
            tools = await self._test(engine, upstream)
        except BaseException:
            await upstream.close()
            await engine.stop()
            raise
        self._count += 1
        return Generation(self._count, engine, upstream, time.monotonic(), tools=tools)

    async def _test(self, engine: RunningEngine, upstream: Upstream) -> bool:
        """Self-test; returns whether the model can call tools."""
        try:
            await self_test(upstream)
            return await calls_tools(upstream)
        except (ConnectFailed, UpstreamFailed, UpstreamTimeout) as broken:
            reason = (broken.text("ja"), broken.text("en"))
            with suppress(TimeoutError):  # most likely it died, and then it knows better why
                async with asyncio.timeout(_OBITUARY):
                    reason = await engine.wait()
            raise EngineFailed(reason=reason) from None

    async def _run_start(self) -> None:
        """The task behind STARTING."""
        target = self._target
        if target is None:
            raise RuntimeError("nothing to start")
        try:
            self._serving = await self._launch(target)
        except EngineFailed as failure:
            self._failure = failure
        except Exception as bug:
            log.exception("engine start")
            self._failure = EngineFailed(reason=(f"内部エラー: {bug!r}", f"internal error: {bug!r}"))
        else:
            self._event(Event.STARTED)
            return
        log.warning("engine: %s", self._failure)
        self._event(Event.FAILED_START)

    async def _settled(self) -> None:
        """Wait for the end of a start that was cancelled, so that two engines never start at once."""
        task, self._start = self._start, None
        if task is not None and not task.done():
            await asyncio.wait({task})

    async def _watch(self, generation: Generation) -> None:
        why = await generation.engine.wait()
        if self._serving is not generation:
            return  # retired meanwhile
        self._failure = EngineFailed(reason=why)
        log.error("engine %d: %s", generation.number, why[1])
        self._serving = None
        self._event(Event.DIED, ran=time.monotonic() - generation.started)
        self._retire(generation)

    def _retire(self, generation: Generation) -> None:
        task = asyncio.create_task(self._end(generation, self._grace), name=f"engine-end-{generation.number}")
        self._keep(task, self._retiring)

    async def _end(self, generation: Generation, grace: float) -> None:
        """Let the requests on it finish for at most `grace` seconds, then stop it."""
        generation.drain()
        reasons = (generation.idle.wait(), generation.engine.wait(), self._hurry.wait())
        waits = [asyncio.ensure_future(reason) for reason in reasons]
        await asyncio.wait(waits, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if generation.in_flight and not waits[1].done():
            log.warning("engine %d: %d requests cut", generation.number, generation.in_flight)
        # Idle connections only are closed by this when all went well; cut requests fail here and not at a timeout.
        await generation.upstream.close()
        await generation.engine.stop()

    @staticmethod
    def _keep(task: asyncio.Task[None], among: set[asyncio.Task[None]]) -> None:
        among.add(task)
        task.add_done_callback(among.discard)
