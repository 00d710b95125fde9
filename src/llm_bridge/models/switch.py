"""The life of the one local engine as a state machine: events in, commands out. Pure: no I/O, no clock, no await.

    EMPTY ── WANT ─► STARTING ── STARTED ─► READY ── BEGIN ─► LOADING ── COMMIT ─► READY (new)
                      │    ▲                │  ▲                │ └───── ABORT ──► READY (old)
               FAILED_START DUE            DIED └─── COMMIT ──┐ DIED
                      ▼    │                ▼                 │ ▼
                     BACKOFF ◄──────────────┘             REPLACING ── ABORT ─► where it came from
                      │ (5 failures)
                      ▼
                    GIVEN_UP ── BEGIN ─► REPLACING

See DESIGN.md beside this file for what each state means to a request. An event without a row in `TRANSITIONS` is a
programming error and raises `IllegalEvent`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from llm_bridge.supervisor.backoff import Backoff


class Phase(Enum):
    """What the local engine is doing."""

    EMPTY = "empty"
    STARTING = "starting"
    READY = "ready"
    LOADING = "loading"
    REPLACING = "replacing"
    BACKOFF = "backoff"
    GIVEN_UP = "failed"


class Event(Enum):
    """What happened. `step` takes the seconds a dead engine had run beside DIED."""

    WANT = auto()
    """The configured model is to run, without a switch: at the bridge's start."""
    UNUSABLE = auto()
    """The configured model cannot even be tried (its file is missing): retrying would not help."""
    STARTED = auto()
    FAILED_START = auto()
    DIED = auto()
    DUE = auto()
    """The delay before the next start is over."""
    BEGIN = auto()
    """A switch was accepted and its engine starts now."""
    COMMIT = auto()
    """The candidate passed its test and the configuration is written."""
    ABORT = auto()
    """The candidate failed, or a later switch took precedence."""
    CLEAR = auto()
    """No local model is configured any more."""


class Command(Enum):
    """What the caller has to do, in the order given."""

    START = auto()
    CANCEL_START = auto()
    SCHEDULE = auto()
    """Send DUE in `state.backoff.delay` seconds."""
    CANCEL_DUE = auto()
    SERVE = auto()
    """Route requests to the engine that became ready; wake those that wait."""
    RETIRE = auto()
    """Drain and stop the engine that served until now."""
    HOLD = auto()
    """Requests wait: nothing serves, something is about to."""
    REFUSE = auto()
    """Requests fail at once with the reason."""
    VACATE = auto()
    """There is no local model."""


@dataclass(frozen=True, slots=True)
class State:
    """`resume` is where an aborted replacement returns to; only set in REPLACING."""

    phase: Phase = Phase.EMPTY
    backoff: Backoff = field(default_factory=Backoff)
    resume: Phase | None = None

    @property
    def serving(self) -> bool:
        return self.phase in (Phase.READY, Phase.LOADING)

    @property
    def switching(self) -> bool:
        return self.phase in (Phase.LOADING, Phase.REPLACING)


class IllegalEvent(Exception):
    """An event that cannot happen in this state."""


Result = tuple[State, tuple[Command, ...]]
Rule = Callable[[State, float], Result]


def step(state: State, event: Event, ran: float = 0.0) -> Result:
    """The next state and what to do.

    Args:
        ran: seconds the engine had run, with DIED.

    Raises:
        IllegalEvent: `event` cannot happen in `state`.
    """
    rule = TRANSITIONS.get((state.phase, event))
    if rule is None:
        raise IllegalEvent(f"{event.name} in {state.phase.name}")
    return rule(state, ran)


def _to(phase: Phase, *commands: Command) -> Rule:
    def rule(state: State, ran: float) -> Result:
        return replace(state, phase=phase, resume=None), commands

    return rule


def _fresh(phase: Phase, *commands: Command) -> Rule:
    """Like `_to`, and earlier failures no longer count."""

    def rule(state: State, ran: float) -> Result:
        return State(phase, state.backoff.forgotten()), commands

    return rule


def _replacing(resume: Phase, *commands: Command) -> Rule:
    def rule(state: State, ran: float) -> Result:
        return replace(state, phase=Phase.REPLACING, resume=resume), commands

    return rule


def _after_failure(state: State, ran: float) -> Result:
    backoff = state.backoff.failed(ran)
    if backoff.exhausted:
        return State(Phase.GIVEN_UP, backoff), (Command.REFUSE,)
    return State(Phase.BACKOFF, backoff), (Command.HOLD, Command.SCHEDULE)


def _died_while_loading(state: State, ran: float) -> Result:
    """The candidate is about to serve, so the dead one is restarted only if the candidate fails."""
    backoff = state.backoff.failed(ran)
    resume = Phase.GIVEN_UP if backoff.exhausted else Phase.BACKOFF
    return State(Phase.REPLACING, backoff, resume), (Command.HOLD,)


def _replacement_aborted(state: State, ran: float) -> Result:
    back = state.resume or Phase.EMPTY
    commands = {Phase.EMPTY: Command.VACATE, Phase.BACKOFF: Command.SCHEDULE, Phase.GIVEN_UP: Command.REFUSE}
    return replace(state, phase=back, resume=None), (commands[back],)


_P, _E, _C = Phase, Event, Command

TRANSITIONS: dict[tuple[Phase, Event], Rule] = {
    (_P.EMPTY, _E.WANT): _fresh(_P.STARTING, _C.HOLD, _C.START),
    (_P.EMPTY, _E.UNUSABLE): _fresh(_P.GIVEN_UP, _C.REFUSE),
    (_P.EMPTY, _E.BEGIN): _replacing(_P.EMPTY, _C.HOLD),
    (_P.EMPTY, _E.CLEAR): _to(_P.EMPTY, _C.VACATE),
    (_P.STARTING, _E.STARTED): _to(_P.READY, _C.SERVE),
    (_P.STARTING, _E.FAILED_START): _after_failure,
    (_P.STARTING, _E.BEGIN): _replacing(_P.BACKOFF, _C.CANCEL_START),
    (_P.STARTING, _E.CLEAR): _fresh(_P.EMPTY, _C.CANCEL_START, _C.VACATE),
    (_P.READY, _E.DIED): _after_failure,
    (_P.READY, _E.BEGIN): _to(_P.LOADING),
    (_P.READY, _E.CLEAR): _fresh(_P.EMPTY, _C.RETIRE, _C.VACATE),
    (_P.LOADING, _E.COMMIT): _fresh(_P.READY, _C.SERVE, _C.RETIRE),
    (_P.LOADING, _E.ABORT): _to(_P.READY),
    (_P.LOADING, _E.DIED): _died_while_loading,
    (_P.REPLACING, _E.COMMIT): _fresh(_P.READY, _C.SERVE),
    (_P.REPLACING, _E.ABORT): _replacement_aborted,
    (_P.BACKOFF, _E.DUE): _to(_P.STARTING, _C.START),
    (_P.BACKOFF, _E.BEGIN): _replacing(_P.BACKOFF, _C.CANCEL_DUE),
    (_P.BACKOFF, _E.CLEAR): _fresh(_P.EMPTY, _C.CANCEL_DUE, _C.VACATE),
    (_P.GIVEN_UP, _E.BEGIN): _replacing(_P.GIVEN_UP, _C.HOLD),
    (_P.GIVEN_UP, _E.CLEAR): _fresh(_P.EMPTY, _C.VACATE),
}
