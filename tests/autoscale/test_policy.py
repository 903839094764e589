"""When workers are started and stopped: each rule of the policy by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from parrot_mq.autoscale import Decision, Learned, Observation, PolicyConfig, PolicyState, decide
from parrot_mq.errors import ConfigurationError
from parrot_mq.messages import Work, WorkerRate
from tests.autoscale.observations import OUTPUT_TOKENS, SLOTS, observe, worker

CONFIG = PolicyConfig(max_workers=10)
TICK_S = 2.0
LEARNED = Learned(
    prefill_tokens_per_s=1e9, output_tokens_per_s=float(OUTPUT_TOKENS), num_full=float(SLOTS), load_s=60.0
)


def _state() -> PolicyState:
    """One that knows how fast workers are."""
    return PolicyState(learned=replace(LEARNED))


def _go_on(
    state: PolicyState,
    *,
    begin_s: float,
    duration_s: float,
    per_s: float = 0.0,
    arrived: int = 0,
    config: PolicyConfig = CONFIG,
    **details: Any,
) -> Iterator[Decision]:
    """Decide at every tick while so many arrive in a second."""
    for tick in range(int(duration_s / TICK_S)):
        passed_s = tick * TICK_S
        seen = observe(begin_s + passed_s, arrived=arrived + int(passed_s * per_s), **details)
        yield decide(state, seen, config)


def _last(decisions: Iterator[Decision]) -> Decision:
    *_, last = decisions
    return last


# -- up --------------------------------------------------------------------------------------------------------------


def test_nothing_to_do_needs_nobody() -> None:
    decision = decide(_state(), observe(0.0), CONFIG)
    assert (decision.target, decision.change, decision.kind) == (0, 0, "steady")


def test_the_first_generation_starts_a_worker_at_once() -> None:
    decision = decide(_state(), observe(0.0, waiting=1, arrived=1), CONFIG)
    assert (decision.target, decision.kind) == (1, "activate")
    assert "1 wait" in decision.reason


def test_before_a_worker_was_seen_slots_are_counted() -> None:
    config = replace(CONFIG, default_slots=4)
    assert decide(PolicyState(), observe(0.0, waiting=9), config).wanted == 3


def test_what_outputs_cost_is_not_believed_before_some_have_ended() -> None:
    """Else whoever asks for at most 100,000 tokens, and gets 10, would start every worker there is."""
    seen = observe(0.0, waiting=9, finished=3, num_ready=1)
    assert seen.demand is not None
    huge = replace_demand(seen, latency_ready=Work(num_generations=9, num_output_tokens=10**7))
    assert decide(_state(), huge, CONFIG).wanted == 2


def replace_demand(seen: Observation, **changes: Any) -> Observation:
    """The same with other figures."""
    assert seen.demand is not None
    return replace(seen, demand=msgspec.structs.replace(seen.demand, **changes))


def test_nobody_needs_more_than_a_slot() -> None:
    seen = replace_demand(observe(0.0, num_ready=1), latency_ready=Work(num_generations=9, num_output_tokens=10**7))
    assert decide(_state(), seen, CONFIG).wanted == 2


def test_more_are_started_when_they_are_wanted_for_a_while_and_not_for_a_moment() -> None:
    state = _state()
    decisions = list(_go_on(state, begin_s=0, duration_s=8, waiting=150, running=24, num_ready=3))
    assert [each.kind for each in decisions] == ["wait", "wait", "wait", "up"]
    assert decisions[-1].change == 2
    state = _state()
    decide(state, observe(0.0, waiting=150, running=24, num_ready=3), CONFIG)
    decide(state, observe(2.0, running=24, num_ready=3), CONFIG)
    assert decide(state, observe(6.0, waiting=150, running=24, num_ready=3), CONFIG).kind == "wait", "it began anew"


def test_what_is_on_its_way_out_is_taken_back_without_delay() -> None:
    decision = decide(_state(), observe(0.0, waiting=150, running=24, num_ready=3, num_stopping=1), CONFIG)
    assert (decision.kind, decision.change) == ("up", 2)


def test_a_burst_starts_workers_at_once_and_as_many_as_it_will_need() -> None:
    state = _state()
    _last(_go_on(state, begin_s=0, duration_s=120, per_s=0.5, running=4, num_ready=1))
    decisions = list(
        _go_on(state, begin_s=120, duration_s=8, per_s=8.0, arrived=60, waiting=20, running=8, num_ready=1)
    )
    assert decisions[2].kind == "panic"
    assert decisions[2].wanted > 4, "while workers load, more comes"
    assert decisions[2].target == 2, "at most twice as many in one step"


def test_many_that_come_together_are_not_taken_for_a_flow() -> None:
    """Forty short ones are done before another worker would be loaded."""
    state = _state()
    _last(_go_on(state, begin_s=0, duration_s=120, per_s=0.2, running=2, num_ready=1))
    for tick in range(3):
        seen = observe(120 + tick * TICK_S, arrived=64, waiting=32, running=8, num_ready=1)
        short = Work(num_generations=32, num_output_tokens=32 * 10)
        assert decide(state, replace_demand(seen, latency_ready=short), CONFIG).change == 0


def test_what_only_has_to_be_finished_calls_for_fewer_workers() -> None:
    latency = decide(_state(), observe(0.0, waiting=240, num_ready=1), CONFIG).wanted
    throughput = decide(_state(), observe(0.0, throughput=240, num_ready=1), CONFIG).wanted
    assert (latency, throughput) == (8, 2)


def test_workers_that_start_count() -> None:
    decision = decide(_state(), observe(0.0, waiting=8, num_starting=1), CONFIG)
    assert decision.change == 0


@pytest.mark.parametrize(
    ("details", "most"), [({}, 10), ({"num_usable": 3}, 3), ({"num_usable": 3, "num_fixed": 5}, 5)]
)
def test_bounds_hold(details: dict[str, Any], most: int) -> None:
    state = _state()
    decision = _last(_go_on(state, begin_s=0, duration_s=20, waiting=10**4, num_starting=most, **details))
    assert (decision.wanted, decision.change) == (most, 0)


def test_there_are_never_fewer_than_the_least() -> None:
    config = replace(CONFIG, min_workers=2)
    assert decide(_state(), observe(0.0), config).target == 2
    kinds = {each.kind for each in _go_on(_state(), begin_s=0, duration_s=4000, config=config, num_ready=2)}
    assert kinds == {"steady"}


# -- down ------------------------------------------------------------------------------------------------------------


def _idle(state: PolicyState, num_ready: int, **details: Any) -> list[tuple[float, Decision]]:
    """Nothing comes for an hour; what is decided is done. Returns when something changed."""
    changes = []
    for tick in range(1800):
        decision = decide(state, observe(tick * TICK_S, num_ready=num_ready, **details), CONFIG)
        if decision.change:
            changes.append((tick * TICK_S, decision))
        num_ready = decision.target
    return changes


def test_what_nobody_needs_is_given_up_in_steps_and_the_last_one_late() -> None:
    changes = _idle(_state(), 8)
    assert [decision.target for _, decision in changes] == [5, 3, 2, 1, 0]
    times = [at for at, _ in changes]
    assert times[0] >= CONFIG.keep_loads * 60.0, "it might be needed again"
    assert all(after - before >= CONFIG.down_step_s for before, after in pairwise(times))
    assert times[-1] >= CONFIG.idle_to_zero_s
    assert changes[-1][1].kind == "to_zero"


def test_the_longer_a_load_takes_the_longer_is_a_worker_kept() -> None:
    slow, fast = _state(), _state()
    slow.learned.load_s, fast.learned.load_s = 70.0, 1.0
    assert _idle(slow, 3)[0][0] == pytest.approx(280.0, abs=4)
    assert _idle(fast, 3)[0][0] == pytest.approx(CONFIG.min_uptime_s, abs=4)


def test_what_others_started_and_what_is_young_stays() -> None:
    assert _idle(_state(), 3, num_fixed=3) == []
    assert _idle(_state(), 3, num_young=3) == []
    assert [decision.target for _, decision in _idle(_state(), 3, num_fixed=1)] == [2, 1]


def test_the_last_worker_stays_as_long_as_anything_is_unfinished() -> None:
    assert {each.target for each in _go_on(_state(), begin_s=0, duration_s=4000, running=1, num_ready=1)} == {1}


def test_chance_neither_starts_nor_stops_anybody() -> None:
    """Two in a second keep two workers busy; one more is there for chance."""
    state = _state()
    arrived, changes = 0.0, []
    for tick in range(1200):
        wave = math.sin(tick / 37) + math.sin(tick / 11)
        arrived += TICK_S * (2.0 + 0.1 * wave)
        seen = observe(tick * TICK_S, arrived=int(arrived), running=18, num_ready=3)
        changes.append(decide(state, seen, CONFIG).change)
    assert set(changes) == {0}


def test_those_that_were_started_to_catch_up_are_given_up_soon() -> None:
    state = _state()
    _last(_go_on(state, begin_s=0, duration_s=300, per_s=1.0, running=8, num_ready=2))
    _last(_go_on(state, begin_s=300, duration_s=40, per_s=1.0, arrived=300, waiting=80, running=64, num_ready=8))
    changed_at = next(
        340 + index * TICK_S
        for index, each in enumerate(
            _go_on(state, begin_s=340, duration_s=400, per_s=1.0, arrived=340, running=8, num_ready=8)
        )
        if each.change < 0
    )
    assert changed_at - 340 < CONFIG.keep_loads * 60 / 2


# -- hold ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_ready", [0, 5])
def test_without_figures_nothing_changes(num_ready: int) -> None:
    never = Observation(now=0.0, demand=None, num_ready=num_ready)
    stale = observe(0.0, waiting=1000, num_ready=num_ready, age_s=CONFIG.max_age_s + 1)
    for seen in (never, stale):
        decision = decide(_state(), seen, replace(CONFIG, max_workers=4))
        assert (decision.change, decision.kind) == (0, "hold")
    assert "16 s old" in decision.reason


def test_a_policy_that_begins_keeps_what_runs() -> None:
    """It does not know what was before."""
    decisions = list(_go_on(_state(), begin_s=0, duration_s=200, num_ready=6))
    assert {each.change for each in decisions} == {0}
    assert decisions[-1].kind == "wait"


def test_counters_that_begin_anew_are_no_burst() -> None:
    """Another coordinator has taken over, and counts what it finds."""
    state = _state()
    _last(_go_on(state, begin_s=0, duration_s=100, per_s=0.5, running=4, num_ready=1))
    for tick in range(5):
        seen = observe(100 + tick * TICK_S, since=99.0, arrived=5000 + tick, running=4, num_ready=1)
        assert decide(state, seen, CONFIG).change == 0


# -- what is learned -------------------------------------------------------------------------------------------------


def test_the_speed_of_workers_is_learned() -> None:
    learned = Learned()
    learned.rates([WorkerRate(worker="idle", num_slots=5)])
    assert (learned.rate, learned.num_full) == (None, 5.0), "of one that has nothing to do its slots are known"
    for _ in range(200):
        learned.rates([worker("a"), worker("b", num_full=4)])
    rate = learned.rate
    assert rate is not None
    assert rate.seconds(Work(num_output_tokens=OUTPUT_TOKENS)) == pytest.approx(1.0)
    assert learned.num_full == pytest.approx(6.0, rel=1e-3)


def test_the_time_that_loading_takes_is_learned() -> None:
    learned = Learned()
    learned.load([40.0])
    assert learned.load_s == 40.0
    learned.load([60.0, 60.0])
    assert 40.0 < learned.load_s < 60.0


@pytest.mark.parametrize(
    "details",
    [
        {"min_workers": 3, "max_workers": 2},
        {"min_workers": -1},
        {"latency_wait_s": 0.0},
        {"headroom": -1.0},
        {"up_factor": 0.5},
    ],
)
def test_settings_that_make_no_sense_are_refused(details: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(details))):
        PolicyConfig(**details)
