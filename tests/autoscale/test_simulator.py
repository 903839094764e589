"""The policy in virtual time: what must hold whatever comes, and how it compares with counting messages."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

import pytest

from parrot_mq.autoscale import PolicyConfig
from parrot_mq.autoscale.queue_length import QueueLengthScaler
from parrot_mq.autoscale.simulated_pool import Engine, SimulatedWorker
from parrot_mq.autoscale.simulator import Moment, Outcome, Policy, simulate
from parrot_mq.autoscale.workload import SCENARIOS, Arrival, Scenario, Texts, make_arrivals, read_trace
from parrot_mq.errors import ConfigurationError

pytestmark = pytest.mark.slow

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
NUM_RUNS = 120
SEEDS = range(1, 11)


# -- whatever comes --------------------------------------------------------------------------------------------------


def _random_scenario(rng: random.Random) -> Scenario:
    busy, quiet, period_s = rng.uniform(0.2, 6.0), rng.choice([0.0, 0.3]), rng.uniform(60.0, 600.0)
    outages = ((300.0, 300.0 + rng.uniform(20.0, 200.0)),) if rng.random() < 0.3 else ()
    return Scenario(
        name="random",
        rate=lambda at: busy if at % period_s < period_s / 2 else quiet,
        duration_s=900.0,
        bursts=((rng.uniform(0.0, 800.0), rng.randrange(100)),),
        texts=Texts(num_prefix=rng.choice([0, 2000]), throughput_share=rng.choice([0.0, 0.5])),
        load_s=rng.choice([5.0, 60.0, 180.0]),
        bad_slots=rng.choice([0, 0, 2]),
        outages=outages,
    )


@pytest.mark.parametrize("seed", range(NUM_RUNS))
def test_whatever_comes_nothing_is_lost_and_bounds_hold(seed: int) -> None:
    rng = random.Random(seed)
    scenario, least = _random_scenario(rng), rng.choice([0, 0, 1, 2])
    config = PolicyConfig(min_workers=least, max_workers=rng.randrange(4, 9))
    arrivals = make_arrivals(scenario, seed)
    outcome = simulate(arrivals, Policy(config), scenario=scenario, keeps_moments=True)
    assert outcome.num_unfinished == 0
    assert len(outcome.waits_s) == len(arrivals)
    last_down_at = -config.down_step_s
    for moment in outcome.moments:
        _assert_sound(moment, config)
        if moment.decision.change < 0:
            assert moment.seen.now - last_down_at >= config.down_step_s
            last_down_at = moment.seen.now


def _assert_sound(moment: Moment, config: PolicyConfig) -> None:
    seen, decision = moment
    assert decision.num_workers == seen.num_workers
    assert decision.reason
    most = min(config.max_workers, seen.num_usable or 0)
    assert decision.change <= 0 or decision.target <= most
    assert decision.change >= 0 or decision.target >= config.min_workers
    if seen.demand is None or seen.age_s > config.max_age_s:
        assert (decision.kind, decision.change) == ("hold", 0)
    elif seen.num_waiting + seen.num_running and most:
        assert decision.target > 0, "there is work"
    if decision.change < 0:
        assert seen.num_young < seen.num_ready, "only young ones are there"


def test_a_seed_repeats_itself() -> None:
    scenario = BY_NAME["on/off 90 s"]
    first, second = (simulate(make_arrivals(scenario, 3), Policy(PolicyConfig()), scenario=scenario) for _ in "ab")
    assert first == second


# -- scenarios -------------------------------------------------------------------------------------------------------


def _compare(name: str, seeds: Iterable[int] = SEEDS) -> tuple[list[Outcome], list[Outcome]]:
    scenario, config = BY_NAME[name], PolicyConfig()
    ours, counting = [], []
    for seed in seeds:
        arrivals = make_arrivals(scenario, seed)
        ours.append(simulate(arrivals, Policy(config), scenario=scenario))
        scaler = QueueLengthScaler(config, lag_threshold=Engine().num_slots)
        counting.append(simulate(arrivals, scaler, scenario=scenario, takes_back=False))
    assert all(outcome.num_unfinished == 0 for outcome in (*ours, *counting))
    return ours, counting


def _p95_s(outcomes: list[Outcome]) -> float:
    """In tenths of a second: time passes in steps of half a second."""
    return round(fmean(each.p95_s for each in outcomes), 1)


@pytest.mark.parametrize("name", ["steady", "step", "on/off 90 s", "on/off 400 s", "short and shared"])
def test_it_needs_fewer_gpu_hours_and_starts_than_counting_and_nobody_waits_longer(name: str) -> None:
    ours, counting = _compare(name)
    assert _p95_s(ours) <= _p95_s(counting)
    assert fmean(each.gpu_hours for each in ours) < 0.98 * fmean(each.gpu_hours for each in counting)
    assert fmean(each.num_starts for each in ours) < fmean(each.num_starts for each in counting)


def test_in_overload_it_is_no_worse_than_counting() -> None:
    ours, counting = _compare("overload", seeds=(1, 2, 3))
    assert _p95_s(ours) <= _p95_s(counting)
    assert fmean(each.gpu_hours for each in ours) <= fmean(each.gpu_hours for each in counting)
    assert fmean(each.num_starts for each in ours) <= fmean(each.num_starts for each in counting)


BOUNDS = {
    "burst": (85.0, 1.0, 8.0),
    "slow loads": (160.0, 6.2, 17.0),
    "failing slots": (1.0, 3.7, 13.0),
    "outage": (5.0, 4.4, 17.0),
    "short and shared": (25.0, 2.3, 15.0),
}
"""p95 of the wait, GPU-hours, starts, in the mean: what was measured, and some room."""


@pytest.mark.parametrize("name", BOUNDS)
def test_whatever_goes_wrong_the_cost_is_bounded(name: str) -> None:
    scenario = BY_NAME[name]
    found = [simulate(make_arrivals(scenario, seed), Policy(PolicyConfig()), scenario=scenario) for seed in (1, 2, 3)]
    p95_s, gpu_hours, num_starts = BOUNDS[name]
    assert fmean(each.p95_s for each in found) <= p95_s
    assert fmean(each.gpu_hours for each in found) <= gpu_hours
    assert fmean(each.num_starts for each in found) <= num_starts


def test_nothing_changes_while_nothing_is_seen() -> None:
    scenario = BY_NAME["outage"]
    outcome = simulate(make_arrivals(scenario, 1), Policy(PolicyConfig()), scenario=scenario, keeps_moments=True)
    blind = [moment for moment in outcome.moments if moment.seen.age_s > 15.0]
    assert len(blind) > 100
    assert {moment.decision.change for moment in blind} == {0}


def test_one_generation_starts_one_worker_and_ends_it_again() -> None:
    scenario = Scenario(name="one", bursts=((100.0, 1),), duration_s=1200.0)
    outcome = simulate(make_arrivals(scenario, 1), Policy(PolicyConfig()), scenario=scenario)
    assert (outcome.num_starts, len(outcome.waits_s)) == (1, 1)
    assert outcome.p95_s == pytest.approx(60.0, abs=3.0)
    assert outcome.gpu_hours * 3600 == pytest.approx(60 + 300, rel=0.1)


# -- the simulated worker --------------------------------------------------------------------------------------------


def test_a_worker_takes_the_time_of_its_steps() -> None:
    engine = Engine(num_slots=2, base_s=0.02, read_s=0.0, prefill_s=0.001)
    worker = SimulatedWorker(engine, 0, 0.0, 0.0, False, state="ready")
    worker.take(Arrival(0.0, 500, 100, 100))
    assert worker.num_free == 1
    assert worker.advance(0.5) == [], "it reads the prompt"
    assert worker.advance(1.9) == []
    assert len(worker.advance(0.2)) == 1
    assert worker.num_free == 2


def test_a_prefix_is_read_once() -> None:
    worker = SimulatedWorker(Engine(), 0, 0.0, 0.0, False, state="ready")
    for _ in range(2):
        worker.take(Arrival(0.0, 10, 100, 100, prefix="p", num_prefix=1000))
    assert worker.num_unread == 1020


# -- traces ----------------------------------------------------------------------------------------------------------


def test_a_trace_is_read_in_the_order_of_time(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(
        "at,prompt_tokens,output_tokens,class,prefix,prefix_tokens\n5,100,20,throughput,news,900\n1.5,50,10,,,\n",
    )
    assert read_trace(path) == [
        Arrival(1.5, 50, 10, 10),
        Arrival(5.0, 100, 20, 20, "throughput", "news", 900),
    ]


@pytest.mark.parametrize("line", ["x,1,1", "1,-5,1", "1,1,", "inf,1,1", "1,1,1,urgent"])
def test_a_bad_line_of_a_trace_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"at,prompt_tokens,output_tokens,class\n1,1,1\n{line}\n")
    with pytest.raises(ConfigurationError, match="line 3"):
        read_trace(path)


def test_a_trace_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing\.csv"):
        read_trace(tmp_path / "nothing.csv")
