"""The decisions of supervision: pure values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_mq.actors import RestartPolicy, Strategy, Supervision
from parrot_mq.actors.supervision import RestartHistory, affected_children


@pytest.mark.parametrize(
    ("policy", "after_failure", "after_stop"),
    [
        (RestartPolicy.PERMANENT, True, True),
        (RestartPolicy.TRANSIENT, True, False),
        (RestartPolicy.TEMPORARY, False, False),
    ],
)
def test_policy_says_when_a_child_is_restarted(policy: RestartPolicy, after_failure: bool, after_stop: bool) -> None:
    assert policy.restarts(is_failure=True) is after_failure
    assert policy.restarts(is_failure=False) is after_stop


@pytest.mark.parametrize(
    ("strategy", "affected"),
    [(Strategy.ONE_FOR_ONE, "b"), (Strategy.REST_FOR_ONE, "bcd"), (Strategy.ONE_FOR_ALL, "abcd")],
)
def test_strategy_says_who_is_restarted_with_it(strategy: Strategy, affected: str) -> None:
    assert affected_children(strategy, list("abcd"), "b") == list(affected)


def test_backoff_doubles_up_to_its_most() -> None:
    supervision = Supervision(backoff_s=0.1, max_backoff_s=0.5)
    assert [supervision.delay_s(number) for number in (1, 2, 3, 4, 5000)] == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_intensity_counts_all_children_and_backoff_each() -> None:
    history = RestartHistory(Supervision(intensity=3, period_s=10, backoff_s=1))
    assert [history.record(child, at=0) for child in "aab"] == [1, 2, 1]
    assert history.record("b", at=9) is None


def test_restarts_older_than_the_period_do_not_count() -> None:
    history = RestartHistory(Supervision(intensity=1, period_s=10, backoff_s=1))
    assert [history.record("a", at=at) for at in (0, 10, 20)] == [1, 1, 1]


def test_intensity_of_zero_allows_no_restart() -> None:
    assert RestartHistory(Supervision(intensity=0)).record("a", at=0) is None


@given(st.integers(0, 5), st.lists(st.floats(0, 10), max_size=30))
def test_history_agrees_with_counting(intensity: int, gaps_s: list[float]) -> None:
    history = RestartHistory(Supervision(intensity=intensity, period_s=5))
    times: list[float] = []
    for gap_s in gaps_s:
        times.append((times[-1] if times else 0.0) + gap_s)
        num_recent = sum(time > times[-1] - 5 for time in times)
        assert (history.record("a", at=times[-1]) is None) == (num_recent > intensity)


@pytest.mark.parametrize(
    "settings", [{"intensity": -1}, {"period_s": 0}, {"backoff_s": -1}, {"backoff_s": 2, "max_backoff_s": 1}]
)
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Supervision(**settings)  # type: ignore[arg-type]
