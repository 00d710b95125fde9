"""The transition table, alone and under random histories."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llm_bridge.models.switch import TRANSITIONS, Command, Event, IllegalEvent, Phase, State, step
from llm_bridge.supervisor.backoff import Backoff


def after(*events: Event, backoff: Backoff | None = None) -> State:
    state = State(backoff=backoff or Backoff())
    for event in events:
        state, _ = step(state, event)
    return state


READY = (Event.WANT, Event.STARTED)


def test_a_switch_that_succeeds() -> None:
    state, commands = step(after(*READY), Event.BEGIN)
    assert (state.phase, state.serving, commands) == (Phase.LOADING, True, ())
    state, commands = step(state, Event.COMMIT)
    assert (state.phase, commands) == (Phase.READY, (Command.SERVE, Command.RETIRE))


def test_a_switch_that_fails_changes_nothing() -> None:
    before = after(*READY)
    state, commands = step(after(*READY, Event.BEGIN), Event.ABORT)
    assert (state, commands) == (before, ())


def test_five_failures_are_the_end_and_a_switch_is_a_new_beginning() -> None:
    state = after(Event.WANT)
    for _ in range(4):
        state, commands = step(state, Event.FAILED_START)
        assert commands == (Command.HOLD, Command.SCHEDULE)
        state, _ = step(state, Event.DUE)
    state, commands = step(state, Event.FAILED_START)
    assert (state.phase, commands) == (Phase.GIVEN_UP, (Command.REFUSE,))
    state, commands = step(state, Event.BEGIN)
    assert (state.phase, commands) == (Phase.REPLACING, (Command.HOLD,))
    assert step(state, Event.ABORT)[0].phase is Phase.GIVEN_UP
    state, _ = step(state, Event.COMMIT)
    assert (state.phase, state.backoff.failures) == (Phase.READY, 0)


def test_a_death_during_a_load_is_made_good_by_either_engine() -> None:
    state, commands = step(after(*READY, Event.BEGIN), Event.DIED)
    assert (state.phase, commands) == (Phase.REPLACING, (Command.HOLD,))
    assert step(state, Event.COMMIT)[1] == (Command.SERVE,)
    resumed, commands = step(state, Event.ABORT)
    assert (resumed.phase, commands) == (Phase.BACKOFF, (Command.SCHEDULE,))


def test_a_switch_during_a_restart_takes_its_place() -> None:
    assert step(after(Event.WANT), Event.BEGIN)[1] == (Command.CANCEL_START,)
    waiting = after(*READY, Event.DIED)
    assert step(waiting, Event.BEGIN)[1] == (Command.CANCEL_DUE,)
    assert step(step(waiting, Event.BEGIN)[0], Event.ABORT)[1] == (Command.SCHEDULE,)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", Event)
def test_what_has_no_row_raises(phase: Phase, event: Event) -> None:
    if (phase, event) in TRANSITIONS:
        step(State(phase), event)
    else:
        with pytest.raises(IllegalEvent, match=f"{event.name} in {phase.name}"):
            step(State(phase), event)


def test_every_phase_can_be_reached_and_left() -> None:
    assert {phase for phase, _ in TRANSITIONS} == set(Phase)


class Life(RuleBasedStateMachine):
    """Random legal histories. The model keeps what the commands add up to: what serves, starts, is due."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.starting = self.due = self.serving = self.candidate = False
        self.requests = "refused"

    def send(self, event: Event, ran: float = 0.0) -> None:
        self.state, commands = step(self.state, event, ran)
        for command in commands:
            self.obey(command)

    def obey(self, command: Command) -> None:
        match command:
            case Command.START:
                assert not self.starting
                assert not self.candidate
                self.starting = True
            case Command.CANCEL_START:
                assert self.starting
                self.starting = False
            case Command.SCHEDULE:
                assert not self.due
                self.due = True
            case Command.CANCEL_DUE:
                assert self.due
                self.due = False
            case Command.SERVE:
                self.serving, self.requests = True, "served"
            case Command.RETIRE:
                assert self.serving
                self.serving = self.state.phase is Phase.READY
            case Command.HOLD:
                self.requests = "held"
            case Command.REFUSE | Command.VACATE:
                self.requests = "refused"

    @precondition(lambda self: self.state.phase is Phase.EMPTY)
    @rule()
    def want(self) -> None:
        self.send(Event.WANT)

    @precondition(lambda self: self.state.phase is Phase.EMPTY)
    @rule()
    def unusable(self) -> None:
        self.send(Event.UNUSABLE)

    @precondition(lambda self: self.starting)
    @rule()
    def started(self) -> None:
        self.starting = False
        self.send(Event.STARTED)

    @precondition(lambda self: self.starting)
    @rule()
    def failed_start(self) -> None:
        self.starting = False
        self.send(Event.FAILED_START)

    @precondition(lambda self: self.due)
    @rule()
    def due_now(self) -> None:
        self.due = False
        self.send(Event.DUE)

    @precondition(lambda self: self.serving)
    @rule()
    def died(self) -> None:
        self.serving = False
        self.send(Event.DIED, 1.0)

    @precondition(lambda self: not self.candidate)
    @rule()
    def begin(self) -> None:
        self.send(Event.BEGIN)
        self.candidate = True

    @precondition(lambda self: self.candidate)
    @rule()
    def commit(self) -> None:
        self.candidate = False
        self.send(Event.COMMIT)

    @precondition(lambda self: self.candidate)
    @rule()
    def abort(self) -> None:
        self.candidate = False
        self.send(Event.ABORT)

    @precondition(lambda self: not self.candidate)
    @rule()
    def clear(self) -> None:
        self.send(Event.CLEAR)

    @invariant()
    def at_most_one_engine_is_starting(self) -> None:
        assert self.starting + self.due + self.candidate <= 1

    @invariant()
    def requests_are_served_exactly_when_something_serves(self) -> None:
        assert (self.requests == "served") == self.serving == self.state.serving

    @invariant()
    def requests_wait_only_for_something_that_is_coming(self) -> None:
        assert self.requests != "held" or self.starting or self.due or self.candidate

    @invariant()
    def switching_means_that_there_is_a_candidate(self) -> None:
        assert self.state.switching == self.candidate
        assert (self.state.resume is not None) == (self.state.phase is Phase.REPLACING)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
