"""Which models there are and which local one is active: the only writer of the configuration and of the pool.

The order of a switch: draft → preflight → start and test the new engine → write the configuration → flip → drain the
old engine → stop it. Whatever fails before the write leaves configuration and old engine as they were.

Three locks, always taken in this order, each fair (first come, first served):
- `_intake` orders acceptance. What is accepted last wins: it aborts the load of an earlier switch.
- `_engine` is held from the start of a load until the old engine is gone, so at most two engines share the memory.
- `_writing` is held for one write of the configuration, so API models can be changed during a long load.

An operation belongs to the bridge, not to the request that asked for it: a client that gives up does not abort it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from llm_bridge.config import schema
from llm_bridge.config.schema import Config, ModelEntry
from llm_bridge.config.store import ConfigStore
from llm_bridge.engines.base import Engine, Text
from llm_bridge.errors import BadRequest, BridgeError, EngineFailed, ModelNotConfigured, Refused
from llm_bridge.models import change
from llm_bridge.models.change import Draft
from llm_bridge.models.generation import Generation
from llm_bridge.models.host import Host
from llm_bridge.models.pool import Pool
from llm_bridge.models.target import Target, resolve
from llm_bridge.settings import Settings
from llm_bridge.store.catalogue import Catalogue
from llm_bridge.supervisor import leftovers
from llm_bridge.supervisor.backoff import Backoff

if TYPE_CHECKING:
    from llm_bridge.config.edit import Editor

log = logging.getLogger(__name__)

Operation = Literal["追加", "切り替え", "削除", "再読み込み"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation did. `removed` are the names that are no longer configured, `seconds` how long it took.

    `warning` is why the local model does not run although the change itself was written and applied.
    """

    operation: Operation
    name: str
    local: bool
    applied: bool
    revision: str
    removed: tuple[str, ...]
    seconds: float
    generation: int
    warning: Text | None = None


@dataclass(frozen=True, slots=True)
class _Job:
    """One accepted request. `draft` blocks and may be called again."""

    operation: Operation
    name: str
    draft: Callable[[], Draft]
    apply: bool = True


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a job does to the engine: nothing, replace it by `target`, or (engine without target) end it.

    `obstacle` is why nothing can be done to it although it was asked for.
    """

    engine: bool = False
    target: Target | None = None
    obstacle: BridgeError | None = None


class Manager:
    """See the module's text. One per bridge."""

    def __init__(
        self,
        settings: Settings,
        store: ConfigStore,
        catalogue: Catalogue,
        engine: Engine,
        pool: Pool,
        *,
        backoff: Backoff | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._catalogue = catalogue
        self._pool = pool
        self._host = Host(engine, pool, settings.grace, backoff)
        self._intake, self._engine, self._writing = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()
        self._accepted = 0
        self._load: asyncio.Timeout | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    # -- life

    async def start(self) -> None:
        """Adopt the configuration and begin to start its local model.

        Returns before that is ready: requests for it wait, and its failure keeps nothing else from working.
        """
        await asyncio.to_thread(leftovers.reap, self._settings.home / "run")
        config = await asyncio.to_thread(self._open)
        self._pool.configure(config)
        if config.local is None:
            return
        try:
            target = await asyncio.to_thread(resolve, config.local, self._settings, self._catalogue)
        except BridgeError as reason:
            log.warning("local model: %s", reason)
            self._host.unusable(reason)
        else:
            self._host.want(target)

    async def close(self, grace: float) -> None:
        """Stop the engines; requests that run get `grace` seconds."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._host.close(grace)
        await self._pool.close()

    @property
    def ready(self) -> bool:
        """Whether every configured model can be asked: the local one answers, or there is none."""
        return not self._closing and (self._host.state.serving or self._store.current.local is None)

    def status(self) -> dict[str, Any]:
        """Plain data for /status: the engine's state, its model, and what waits."""
        return {**self._host.status(), "switch_pending": self._engine.locked()}

    # -- operations

    async def add(self, name: str, provider_model: str, *, apply: bool) -> Outcome:
        """Add or replace `name`. A local model becomes the active one and takes the place of the one before.

        Raises:
            ProviderModelForm, BadRequest: the arguments cannot be used.
            Refused: the model has not been downloaded, or a later switch took precedence.
            EngineFailed: it does not run; the previous model still does.
        """
        provider, _ = schema.split_provider_model(provider_model)
        problem = schema.name_problem(name)
        if problem:
            raise BadRequest(ja=problem[0], en=problem[1], param="model_name")
        local = provider in schema.LOCAL_PROVIDERS

        def edit(editor: Editor) -> None:
            editor.put_model(name, provider_model, first=local)

        return await self._submit("追加", name, edit, apply=apply)

    async def switch(self, name: str, *, apply: bool) -> Outcome:
        """Make the configured `name` the first and so the default; a local model runs afterwards.

        Raises:
            ModelNotConfigured: there is no such name. And as `add` does.
        """

        def edit(editor: Editor) -> None:
            if not editor.move_first(name):
                raise ModelNotConfigured(model=name, param="model_name")

        return await self._submit("切り替え", name, edit, apply=apply)

    async def remove(self, name: str) -> Outcome:
        """Remove `name`; a local model is drained and stopped.

        Raises:
            ModelNotConfigured: there is no such name.
            ConfigInvalid: it is the last one.
        """

        def edit(editor: Editor) -> None:
            if not editor.remove_model(name):
                raise ModelNotConfigured(model=name)

        return await self._submit("削除", name, edit, apply=True)

    async def reload(self) -> Outcome:
        """Apply the file as it is now, and try the local model again if it does not run.

        Raises:
            ConfigInvalid: the file cannot be used; everything goes on as before. And as `add` does.
            EngineFailed, Refused: nothing changed in the file, and the local model does not run this time either. When
                something did, that is applied, and the Outcome carries the warning.
        """
        return await self._do(_Job("再読み込み", "", lambda: change.reread(self._store)))

    async def put_config(self, text: str, expect: str | None) -> Outcome:
        """Replace the whole file and apply it. Raises as `add` does, ConfigInvalid, RevisionMismatch."""
        return await self._do(_Job("再読み込み", "", lambda: change.replaced(self._store, text, expect)))

    async def rollback(self, revision: str, expect: str | None) -> Outcome:
        """Go back to an earlier revision and apply it. Raises as `put_config` does, and NotFound."""
        return await self._do(_Job("再読み込み", "", lambda: change.rolled_back(self._store, revision, expect)))

    # -- how an operation runs

    async def _submit(self, operation: Operation, name: str, edit: change.Edit, *, apply: bool) -> Outcome:
        return await self._do(_Job(operation, name, lambda: change.edited(self._store, edit), apply))

    async def _do(self, job: _Job) -> Outcome:
        """Run `job` in a task of the manager; the caller may give up without aborting it."""
        task = asyncio.create_task(self._run(job), name=f"models-{job.operation}-{job.name}")
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Logged here because the caller may have left. A bug comes with its traceback.
            log.warning("%s: %s", task.get_name(), error, exc_info=None if isinstance(error, BridgeError) else error)

    async def _run(self, job: _Job) -> Outcome:
        began = time.monotonic()
        async with self._intake:
            draft = await asyncio.to_thread(job.draft)
            plan = await self._plan(job, draft)
            ticket = self._accept() if plan.engine else 0
        local, without = self._is_local(job.name, draft.after), plan.obstacle
        if not plan.engine:
            config = await self._write(job, plan)
        elif self._stands_alone(job, draft):
            config = await self._write(job, _Plan())
            config, without = await self._retry(job, config, plan, ticket)
        else:
            config = await self._with_engine(job, plan, ticket)
        return Outcome(
            operation=job.operation,
            name=job.name,
            local=local,
            applied=job.apply,
            revision=config.revision,
            removed=tuple(sorted(draft.before - {entry.name for entry in config.models})),
            seconds=time.monotonic() - began,
            generation=self._pool.local.number if self._pool.local else 0,
            warning=self._warning(without) if without is not None else None,
        )

    async def _plan(self, job: _Job, draft: Draft) -> _Plan:
        """What the engine has to do with it; nothing if the one that runs (or that failed) is not concerned."""
        after, entry = draft.after, draft.after.local
        if not job.apply or (entry is None and not self._changed(entry)):
            return _Plan()
        if entry is None:
            return _Plan(engine=True)
        named = after.find(job.name)
        insists = job.operation == "再読み込み" or (named is not None and named.local)
        if not insists and not self._changed(entry):
            return _Plan()
        try:
            target = await asyncio.to_thread(resolve, entry, self._settings, self._catalogue)
        except (Refused, EngineFailed) as reason:
            if not self._stands_alone(job, draft):
                raise
            # Or no change would ever be applied while the local model's file is missing.
            self._host.note(reason)
            return _Plan(obstacle=reason)
        return _Plan() if self._host.runs(target) else _Plan(engine=True, target=target)

    def _changed(self, entry: ModelEntry | None) -> bool:
        """Whether `entry` is another local model than the one that is configured now."""
        return _key(self._store.current.local) != _key(entry)

    def _stands_alone(self, job: _Job, draft: Draft) -> bool:
        """Whether the change does not depend on the engine: the configuration is given anew and its local model stays,
        so for the engine it is a new attempt. A reload of an unchanged file is nothing but that attempt."""
        entry, revision = draft.after.local, draft.after.revision
        known = revision == self._store.current.revision and self._store.written_here(revision)
        anew = job.operation == "再読み込み" and not (known and draft.text is None)
        return anew and entry is not None and not self._changed(entry)

    async def _retry(self, job: _Job, written: Config, plan: _Plan, ticket: int) -> tuple[Config, BridgeError | None]:
        """The engine's part after `written`: what is on disk now is its draft. A failure is not that of the change."""
        again = replace(job, draft=lambda: change.reread(self._store))
        try:
            return await self._with_engine(again, plan, ticket), None
        except BridgeError as reason:
            return written, reason

    def _warning(self, reason: BridgeError) -> Text:
        log.warning("the configuration was applied without its local model: %s", reason)
        return reason.text("ja"), reason.text("en")

    def _is_local(self, name: str, after: Config) -> bool:
        entry = after.find(name) or self._store.current.find(name)
        return entry is not None and entry.local

    def _accept(self) -> int:
        """Give out the next ticket and abort the load of an earlier one."""
        self._accepted += 1
        load, self._load = self._load, None  # once: a timeout that is expiring cannot be rescheduled
        if load is not None:
            load.reschedule(asyncio.get_running_loop().time())
        return self._accepted

    async def _with_engine(self, job: _Job, plan: _Plan, ticket: int) -> Config:
        """Carry out `plan`. On success the engine lock stays taken until the old engine is gone."""
        await self._engine.acquire()
        try:
            if ticket != self._accepted:
                raise _superseded(job)
            async with AsyncExitStack() as stack:
                candidate = await self._candidate(stack, plan.target, job) if plan.target else None
                config = await self._write(job, plan, candidate)
        except BaseException as failure:
            self._engine.release()
            if isinstance(failure, EngineFailed):
                self._host.note(failure)
            raise
        self._keep(asyncio.create_task(self._release(), name="models-drain"))
        return config

    async def _candidate(self, stack: AsyncExitStack, target: Target, job: _Job) -> Generation:
        try:
            async with asyncio.timeout(None) as self._load:
                return await stack.enter_async_context(self._host.candidate(target))
        except TimeoutError:
            raise _superseded(job) from None
        finally:
            self._load = None

    async def _write(self, job: _Job, plan: _Plan, candidate: Generation | None = None) -> Config:
        """Write the configuration; if it applies, adopt it and flip."""
        async with self._writing:
            draft = await asyncio.to_thread(job.draft)  # again: another change may have come in during the load
            if job.apply:
                self._check(plan, draft.after.local)
            config = await asyncio.to_thread(draft.write, self._store)
            if not job.apply:
                return config
            await asyncio.to_thread(self._store.adopt, config)
            self._pool.configure(config)
            if candidate is not None and plan.target is not None:
                self._host.commit(candidate, plan.target)
            elif plan.engine:
                self._host.clear()
            return config

    def _check(self, plan: _Plan, entry: ModelEntry | None) -> None:
        """The local model must still be the one that `plan` was made for."""
        expected = plan.target.key if plan.target else None
        changed = _key(entry) != expected if plan.engine else self._changed(entry)
        if changed:
            raise Refused(
                ja="設定がその間に変更されました。もう一度実行してください",
                en="The configuration changed meanwhile. Try again",
            )

    async def _release(self) -> None:
        try:
            await self._host.drained()
        finally:
            self._engine.release()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _open(self) -> Config:
        try:
            return self._store.current
        except RuntimeError:  # nobody has opened it yet
            return self._store.open()


def _key(entry: ModelEntry | None) -> tuple[str, str] | None:
    """What makes a local model another one: its alias and what it stands for."""
    return (entry.name, entry.model) if entry is not None else None


def _superseded(job: _Job) -> Refused:
    return Refused(
        ja=f"後から受け付けた切り替えが優先されたため、{job.operation}を中止しました",
        en="A later switch took precedence, so this one was given up",
    )
