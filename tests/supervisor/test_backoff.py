"""The pure part of E3."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm_bridge.supervisor.backoff import Backoff


def test_doubles_from_half_a_second_and_gives_up_after_five() -> None:
    backoff, delays = Backoff(), []
    while not backoff.exhausted:
        backoff = backoff.failed()
        delays.append(backoff.delay)
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0]


def test_a_healthy_run_forgets_earlier_failures() -> None:
    backoff = Backoff(failures=4)
    assert backoff.failed(ran=59.0).exhausted
    assert backoff.failed(ran=60.0).failures == 1
    assert backoff.forgotten().delay == 0.0


@given(st.lists(st.floats(0, 120)))
def test_the_delay_is_bounded_whatever_happens(runs: list[float]) -> None:
    backoff = Backoff(limit=10_000)
    for ran in runs:
        backoff = backoff.failed(ran)
        assert 0.5 <= backoff.delay <= 60.0


def test_starts_in_half_an_hour_stay_under_fifteen() -> None:
    """E3, over the clock of the policy alone: an engine that exits at once."""
    backoff, clock, starts = Backoff(), 0.0, 0
    while clock <= 1800 and not backoff.exhausted:
        starts += 1
        backoff = backoff.failed()
        clock += backoff.delay
    print(f"E3: starts in 30 min {starts} (limit 15)")
    assert starts <= 15
