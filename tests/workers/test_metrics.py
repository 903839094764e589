"""A worker for Prometheus: its state, its engine, and how long generations take."""

from __future__ import annotations

from parrot_workers.board import WorkerBoard
from parrot_workers.metrics import WorkerCollector
from parrot_workers.times import GenerationTimes
from prometheus_client import CollectorRegistry

from parrot_mq.messages import CancelGenerations, EngineReport, LoadProgress, WorkerStatus
from tests.coordinator.conftest import _short_logs
from tests.coordinator.holding_engine import Gate, HoldingEngine
from tests.coordinator.service import answer, eventually, make_engine
from tests.workers.worker_bench import open_bench

__all__ = ["_short_logs"]


def _value(collector: WorkerCollector, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry.get_sample_value(name, labels)


def _collector(status: WorkerStatus | None, times: GenerationTimes | None = None) -> WorkerCollector:
    return WorkerCollector(lambda: status, (times or GenerationTimes()).statistics)


def test_before_there_is_a_worker_there_are_no_metrics() -> None:
    assert list(_collector(None).collect()) == []


def test_a_worker_that_loads_tells_how_far_it_is() -> None:
    loading = LoadProgress(stage="reading weights", fraction=0.25)
    collector = _collector(WorkerStatus(worker="w", model="m", state="loading", num_slots=4, loading=loading))
    assert _value(collector, "parrot_worker_state", state="loading") == 1
    assert _value(collector, "parrot_worker_state", state="ready") == 0
    assert _value(collector, "parrot_worker_loading_ratio") == 0.25
    assert _value(collector, "parrot_output_tokens_total") == 0


def test_the_figures_of_the_engine_are_metrics() -> None:
    engine = EngineReport(
        num_running=1,
        num_waiting=2,
        num_prompt_tokens=3,
        num_shared_tokens=4,
        num_copied_tokens=5,
        num_computed_tokens=6,
        num_prefilled_tokens=5,
        num_output_tokens=7,
        num_preemptions=8,
        num_levels=9,
        num_read_tokens=10,
        num_flat_tokens=11,
        num_evicted_pages=12,
        num_steps=13,
        step_s=1.5,
        num_batched=15,
        page_size=16,
        num_pages=100,
        num_free_pages=40,
        num_cached_pages=35,
        num_pinned_pages=5,
    )
    status = WorkerStatus(worker="w", model="m", state="ready", num_slots=4, running=["a"], engine=engine)
    collector = _collector(status)
    values = {
        "parrot_engine_running": 1,
        "parrot_engine_waiting": 2,
        "parrot_prompt_tokens_total": 3,
        "parrot_kv_cache_hit_tokens_total": 4,
        "parrot_kv_cache_copied_tokens_total": 5,
        "parrot_computed_tokens_total": 6,
        "parrot_prefilled_tokens_total": 5,
        "parrot_output_tokens_total": 7,
        "parrot_preemptions_total": 8,
        "parrot_attention_levels_total": 9,
        "parrot_attention_read_tokens_total": 10,
        "parrot_attention_flat_tokens_total": 11,
        "parrot_kv_cache_evicted_pages_total": 12,
        "parrot_engine_step_seconds_count": 13,
        "parrot_engine_step_seconds_sum": 1.5,
        "parrot_engine_batch_size_sum": 15,
        "parrot_kv_cache_page_size_tokens": 16,
        "parrot_worker_slots": 4,
        "parrot_worker_generations": 1,
    }
    assert {name: _value(collector, name) for name in values} == values
    pages = {
        state: _value(collector, "parrot_kv_cache_pages", state=state) for state in ("free", "used", "pinned", "cached")
    }
    assert pages == {"free": 40, "used": 25, "pinned": 5, "cached": 30}


def test_times_have_the_names_that_others_use_too() -> None:
    times = GenerationTimes()
    times.accept("a", now=0.0)
    times.begin("a", now=0.3)
    times.finish("a", num_output_tokens=2, now=0.5)
    times.accept("b", now=0.0)
    times.fail("b", "engine_failure", now=5.0)
    collector = _collector(WorkerStatus(worker="w", model="m", state="ready", num_slots=4), times)
    labels = {"gen_ai_request_model": "m"}
    assert _value(collector, "gen_ai_server_time_to_first_token_seconds_bucket", le="0.5", **labels) == 1
    assert _value(collector, "gen_ai_server_time_to_first_token_seconds_bucket", le="0.25", **labels) == 0
    assert _value(collector, "gen_ai_server_time_per_output_token_seconds_sum", **labels) == 0.2
    duration = "gen_ai_server_request_duration_seconds_sum"
    assert _value(collector, duration, error_type="", **labels) == 0.5
    assert _value(collector, duration, error_type="engine_failure", **labels) == 5
    assert _value(collector, "parrot_generations_failed_total", code="engine_failure") == 1


async def test_a_worker_takes_the_times_of_what_it_runs() -> None:
    board, gate = WorkerBoard(), Gate()
    assert board.status() is None
    async with open_bench(lambda: HoldingEngine(make_engine(answer), gate), board=board) as bench:
        await bench.assign("prompt", "FAIL", "HOLD cancelled", "HOLD broken")
        await bench.value("v0")
        await bench.value("v1")
        await eventually(lambda: len(gate.held) == 2)
        await bench.remote.tell(CancelGenerations(keys=["t.s.v2"]))
        await eventually(lambda: gate.was_cancelled("v2"))
        gate.breaks = 1
        await eventually(lambda: bench.states == ["loading", "ready", "stopped", "loading", "ready"])
        found = board.times.statistics()
        assert found.first_token.num_values == found.duration[""].num_values == 1
        assert found.num_failed == {"engine_failure": 1, "task_cancelled": 1, "generation_aborted": 1}
        status = board.status()
        assert status is not None
        assert (status.worker, status.state) == ("w1", "ready"), "of the worker that lives now"
