"""What a dispatcher tells an autoscaler: tokens after sharing, by class and tenant, and how long one would wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from parrot_mq.coordinator import CoordinatorConfig
from parrot_mq.coordinator.dispatch.dispatch_state import DispatchState
from parrot_mq.coordinator.sessions.ready import ReadyGeneration
from parrot_mq.messages import EngineReport, GenerationProgress, ModelDemand, Usage, WorkerStatus
from parrot_mq.program import Standing
from parrot_mq.types import Objective
from tests.coordinator.holding_engine import Gate
from tests.coordinator.jobs import LATENCY, THROUGHPUT, make_ready
from tests.coordinator.programs import program
from tests.coordinator.service import eventually, running_service

ENGINE = EngineReport(page_size=16, num_pages=1000)
LONG = "x" * 4000
"""1,000 tokens of a prompt, before anything else is known."""


def _status(worker: str = "w", *running: str, **details: Any) -> WorkerStatus:
    given: dict[str, Any] = {"state": "ready", "num_slots": 4, "engine": ENGINE, **details}
    return WorkerStatus(worker=worker, model="m", running=list(running), **given)


def _state(*readies: ReadyGeneration, now: float = 0.0) -> DispatchState:
    state = DispatchState(CoordinatorConfig())
    for ready in readies:
        state.enqueue(ready, now=now, expires_at=1e9)
    return state


def _demand(state: DispatchState, now: float = 0.0) -> ModelDemand:
    state.check_integrity()
    return state.demand("m", since=5.0, now=now)


def test_nothing_to_do_is_nothing() -> None:
    assert _demand(_state()) == ModelDemand(model="m", since=5.0)


def test_a_prefix_that_many_share_counts_once() -> None:
    demand = _demand(_state(*[make_ready(f"v{n}", (LONG, f"{n:04}"), max_tokens=100) for n in range(50)]))
    assert demand.latency_ready.num_generations == 50
    assert demand.latency_ready.num_prefill_tokens == pytest.approx(1000 + 50, rel=0.01)
    assert demand.latency_ready.num_output_tokens == 5000
    assert demand.arrived == demand.latency_ready


def test_a_prefix_is_not_shared_across_tenants() -> None:
    """They have caches of their own."""
    demand = _demand(_state(*[make_ready("v", (LONG,), tenant=tenant) for tenant in ("a", "b")]))
    assert demand.latency_ready.num_prefill_tokens == 2000
    assert [(each.tenant, each.num_ready) for each in demand.tenants] == [("b", 1), ("a", 1)]


def test_classes_are_counted_apart_and_readers_pay_for_what_they_share_with_batches() -> None:
    state = _state(
        make_ready("chat", (LONG, "q"), standing=LATENCY), make_ready("batch", (LONG, "b"), standing=THROUGHPUT)
    )
    demand = _demand(state)
    assert demand.latency_ready.num_prefill_tokens == pytest.approx(1000, abs=1)
    assert demand.throughput_ready.num_prefill_tokens == pytest.approx(0, abs=1)
    state.judge([("t.s.chat", THROUGHPUT)])
    demand = _demand(state)
    assert demand.latency_ready.num_generations == 0
    assert demand.throughput_ready.num_prefill_tokens == pytest.approx(1000, abs=1)


def test_what_a_worker_has_need_not_be_computed() -> None:
    state = _state(make_ready("first", (LONG, "a")))
    state.report(_status(), 0.0)
    state.assign(0.0)
    state.enqueue(make_ready("second", (LONG, "bbbb")), now=1.0, expires_at=1e9)
    assert _demand(state).latency_ready.num_prefill_tokens == 1, "it is being computed"
    state.finish(["t.s.first"], producer="w", now=2.0)
    state.enqueue(make_ready("third", (LONG, "cccc")), now=2.0, expires_at=1e9)
    assert _demand(state).latency_ready.num_prefill_tokens == 2, "it is in the cache"
    state.lose("w", 3.0)
    state.finish(["t.s.second", "t.s.third"], now=3.0)
    state.enqueue(make_ready("fourth", (LONG, "dddd")), now=3.0, expires_at=1e9)
    assert _demand(state).latency_ready.num_prefill_tokens == 1001, "nobody has it"


def test_what_runs_counts_as_far_as_it_is_not_there() -> None:
    state = _state(make_ready("a", (LONG,), max_tokens=100), make_ready("b", (LONG,), max_tokens=300))
    state.report(_status(), 0.0)
    state.assign(0.0)
    running = _demand(state).latency_running
    assert (running.num_generations, running.num_output_tokens) == (2, 400)
    assert running.num_prefill_tokens == pytest.approx(1000, rel=0.01)
    progress = [GenerationProgress(key="t.s.a", output_ids=[1] * 40, num_prompt_tokens=1000)]
    state.report(_status("w", "t.s.a", "t.s.b", progress=progress), 1.0)
    assert _demand(state).latency_running.num_output_tokens == 360


def test_counters_tell_what_came_and_what_it_cost_in_fact() -> None:
    state = _state(make_ready("a", (LONG,), max_tokens=100), make_ready("b", ("other" * 800,), max_tokens=100))
    state.report(_status(), 0.0)
    state.assign(0.0)
    usage = Usage(num_prompt_tokens=900, num_shared_tokens=100, num_output_tokens=30)
    state.finish(["t.s.a"], producer="w", usage=usage, now=1.0)
    state.finish(["t.s.b"], now=1.0)
    demand = _demand(state)
    assert demand.arrived.num_generations == demand.finished.num_generations == 2
    assert demand.finished.num_output_tokens == 30 + 100
    assert demand.finished.num_prefill_tokens == 800 + 1000


def test_what_comes_back_waits_again_and_has_not_arrived_again() -> None:
    state = _state(make_ready("a", (LONG,), max_tokens=100), now=0.0)
    state.report(_status(), 0.0)
    state.assign(0.0)
    progress = [GenerationProgress(key="t.s.a", output_ids=[1] * 40, num_prompt_tokens=1000)]
    state.report(_status("w", "t.s.a", progress=progress), 1.0)
    state.lose("w", 10.0)
    demand = _demand(state, now=12.0)
    assert demand.latency_ready.num_generations == demand.arrived.num_generations == 1
    assert demand.latency_ready.num_output_tokens == 60, "the next one goes on"
    assert demand.oldest_wait_s == 2.0
    assert demand.predicted_wait_s is None, "there is nobody to wait for"


def test_who_waits_longest_is_known() -> None:
    state = _state(make_ready("a"), now=1.0)
    state.enqueue(make_ready("b"), now=4.0, expires_at=1e9)
    assert _demand(state, now=11.0).oldest_wait_s == 10.0
    state.finish(["t.s.a"], now=11.0)
    assert _demand(state, now=11.0).oldest_wait_s == 7.0


def test_one_that_comes_now_waits_for_those_before_it() -> None:
    state = _state(*[make_ready(f"v{n}", (f"{n}",), max_tokens=100) for n in range(2)])
    state.report(_status(), 0.0)
    state.assign(0.0)
    assert _demand(state).predicted_wait_s == pytest.approx(0.0, abs=0.01), "there is a free slot"
    waits = []
    for n in range(2, 40):
        state.enqueue(make_ready(f"v{n}", (f"{n}",), max_tokens=100), now=0.0, expires_at=1e9)
        state.assign(0.0)
        predicted = _demand(state).predicted_wait_s
        assert predicted is not None
        waits.append(predicted)
    assert waits == sorted(waits)
    # 36 before it and 4 slots: 9 rounds of 100 tokens, 16 ms each.
    assert waits[-1] == pytest.approx(37 / 4 * 100 * 16e-3, rel=0.1)
    alone = waits[-1]
    state.report(_status("w2"), 0.0)
    together = _demand(state).predicted_wait_s
    assert together is not None
    assert together < alone / 1.9


def _engine(**details: Any) -> EngineReport:
    """The engine of these tests, with figures."""
    return EngineReport(page_size=16, num_pages=1000, **details)


def _learned(state: DispatchState, worker: str, *running: str, step_s: float = 0.02) -> None:
    """A worker that has told how long 100 steps took."""
    for num_steps in (100, 200):
        engine = _engine(
            num_steps=num_steps,
            step_s=num_steps * step_s,
            num_output_tokens=4 * num_steps,
            num_computed_tokens=4 * num_steps,
            num_read_tokens=4200 * num_steps,
        )
        state.report(_status(worker, *running, engine=engine), 0.0)


def test_the_speed_of_a_worker_is_told_once_it_has_worked() -> None:
    state = _state(make_ready("a", (LONG,), max_tokens=100))
    state.report(_status(), 0.0)
    (rate,) = _demand(state).workers
    assert (rate.num_slots, rate.num_full, rate.output_tokens_per_s) == (4, 4, 0.0)
    state.assign(0.0)
    _learned(state, "w", "t.s.a")
    (rate,) = _demand(state).workers
    assert rate.output_tokens_per_s == pytest.approx(4 / 0.02, rel=0.2)
    assert rate.prefill_tokens_per_s > 0
    state.report(_status("w", "t.s.a", state="draining"), 0.0)
    assert _demand(state).workers == []


def test_a_small_cache_or_a_target_lets_fewer_run_at_a_time() -> None:
    small = _engine(num_steps=1)
    state = _state(make_ready("a", (LONG,), max_tokens=100))
    state.report(_status(num_slots=64, engine=small), 0.0)
    state.assign(0.0)
    (rate,) = _demand(state).workers
    assert rate.num_full == 16000 // 1100
    wanted = Standing(objective=Objective(tpot_ms=16.0 + 5.0))
    state = _state(replace(make_ready("a", (LONG,), max_tokens=100), standing=wanted))
    state.report(_status(num_slots=64, engine=EngineReport(page_size=16, num_pages=10**6, num_steps=1)), 0.0)
    state.assign(0.0)
    (rate,) = _demand(state).workers
    assert rate.num_full == 4, "5 ms are 5,000 tokens to read"


async def test_whoever_asks_the_registry_learns_what_there_is_to_do() -> None:
    gate = Gate()
    async with running_service(CoordinatorConfig(settle_s=0), workers=()) as service, program(service) as run:
        await service.add_holding_worker("worker", gate=gate, num_slots=2)
        for n in range(5):
            await run.run(f"HOLD {n}{{{{out}}}}", writes=f"v{n}")
        await eventually(lambda: len(gate.held) == 2)
        report = await service.report()
        (demand,) = report.demand
        ready = demand.latency_ready.num_generations + demand.throughput_ready.num_generations
        running = demand.latency_running.num_generations + demand.throughput_running.num_generations
        assert (ready, running, demand.arrived.num_generations) == (3, 2, 5)
        assert demand.model in report.models
        assert 0 < demand.since <= report.at
        assert [each.worker for each in demand.workers] == ["worker"]
        gate.open()
        for n in range(5):
            await run.get(f"v{n}")
        await eventually(service.is_all_done)
        (demand,) = (await service.report()).demand
        assert demand.finished.num_generations == 5
        assert demand.tenants == []
