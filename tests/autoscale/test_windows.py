"""What a policy remembers: the greatest number of late, and how much came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_mq.autoscale.arrivals import Arrivals
from parrot_mq.autoscale.window import Window
from parrot_mq.messages import ModelDemand, Work

steps = st.lists(st.tuples(st.floats(0.1, 50.0), st.integers(0, 9)), min_size=1, max_size=50)


@given(steps, st.floats(1.0, 100.0))
def test_a_window_knows_the_greatest_of_what_is_young_enough(steps: list[tuple[float, int]], keep_s: float) -> None:
    window, now, all_of_them = Window(), 0.0, []
    assert window.max() == 0.0
    for passed_s, number in steps:
        now += passed_s
        all_of_them.append((now, number))
        window.note(now, number, keep_s=keep_s)
        assert window.max() == max(each for at, each in all_of_them if at > now - keep_s)


def _demand(num: int, since: float = 1.0) -> ModelDemand:
    work = Work(num_generations=num, num_prefill_tokens=10 * num, num_output_tokens=100 * num)
    return ModelDemand(model="m", arrived=work, since=since)


def test_nothing_is_known_from_one_look() -> None:
    arrivals = Arrivals()
    arrivals.note(0.0, _demand(1000), keep_s=60.0)
    assert arrivals.flow(10.0) == (0.0, 0.0, 0.0)


def test_a_flow_is_what_came_over_the_time_in_which_it_came() -> None:
    arrivals = Arrivals()
    for tick in range(100):
        arrivals.note(2.0 * tick, _demand(50 + 6 * tick), keep_s=60.0)
    assert arrivals.flow(10.0) == pytest.approx((3.0, 30.0, 300.0))
    assert arrivals.flow(1000.0) == pytest.approx((3.0, 30.0, 300.0))


def test_after_a_gap_what_came_meanwhile_is_spread_over_it() -> None:
    """Else it would look like a burst."""
    arrivals = Arrivals()
    arrivals.note(0.0, _demand(0), keep_s=300.0)
    arrivals.note(100.0, _demand(200), keep_s=300.0)
    assert arrivals.flow(6.0).num_generations == pytest.approx(2.0)


def test_many_that_come_together_are_no_usual_flow() -> None:
    arrivals, total = Arrivals(), 0
    for tick in range(50):
        total += 402 if tick == 48 else 2
        arrivals.note(2.0 * tick, _demand(total), keep_s=60.0)
    assert arrivals.flow(6.0).num_generations > 60
    assert arrivals.usual_flow(6.0).num_generations == pytest.approx(1.0)


def test_counters_that_begin_anew_add_up() -> None:
    arrivals = Arrivals()
    arrivals.note(0.0, _demand(1000), keep_s=300.0)
    arrivals.note(10.0, _demand(1020), keep_s=300.0)
    arrivals.note(20.0, _demand(500, since=2.0), keep_s=300.0)
    arrivals.note(30.0, _demand(540, since=2.0), keep_s=300.0)
    assert arrivals.flow(300.0).num_generations == pytest.approx(60 / 30)


@given(steps, st.floats(1.0, 100.0))
def test_however_one_looks_nothing_is_counted_twice(steps: list[tuple[float, int]], keep_s: float) -> None:
    arrivals, now, total = Arrivals(), 0.0, 0
    arrivals.note(0.0, _demand(0), keep_s=1e9)
    for passed_s, number in steps:
        now, total = now + passed_s, total + number
        arrivals.note(now, _demand(total), keep_s=1e9)
    assert arrivals.flow(1e9).num_generations * now == pytest.approx(total)
    assert arrivals.flow(keep_s).num_generations >= 0
