"""A worker for Prometheus. Imported where metrics are switched on: it needs prometheus-client."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import Metric

from parrot_mq.messages import EngineReport, WorkerStatus
from parrot_mq.observability.metrics import counter, gauge, histogram, summary
from parrot_workers.times import TimesStatistics

__all__ = ["WorkerCollector"]

Values = dict[tuple[str, ...], float]

STATES = ("loading", "ready", "standby", "draining", "stopped")

_GAUGES = {
    "num_running": ("parrot_engine_running", "Generations that the engine computes"),
    "num_waiting": ("parrot_engine_waiting", "Generations that wait in the engine"),
}
_COUNTERS = {
    "num_prompt_tokens": ("parrot_prompt_tokens", "Tokens of the prompts that were started"),
    "num_shared_tokens": ("parrot_kv_cache_hit_tokens", "Of the prompt tokens, those that were not computed again"),
    "num_copied_tokens": ("parrot_kv_cache_copied_tokens", "Of the hit tokens, those that were copied"),
    "num_computed_tokens": ("parrot_computed_tokens", "Tokens that went through the model"),
    "num_prefilled_tokens": (
        "parrot_prefilled_tokens",
        "Of the computed tokens, those of prompts that had not come yet",
    ),
    "num_output_tokens": ("parrot_output_tokens", "Tokens that were generated"),
    "num_preemptions": ("parrot_preemptions", "Generations that lost their pages to others and began again"),
    "num_levels": ("parrot_attention_levels", "Levels of shared prefixes that attention used, summed over the steps"),
    "num_read_tokens": ("parrot_attention_read_tokens", "Tokens whose keys and values attention read"),
    "num_flat_tokens": ("parrot_attention_flat_tokens", "Tokens that it would have read without sharing"),
    "num_evicted_pages": ("parrot_kv_cache_evicted_pages", "Kept pages that were given up for something else"),
}


class WorkerCollector:
    """The state of a worker, what its engine does, how long generations take.

    Args:
        read_status: What the worker would say of itself now; none while it does not exist.
        read_times: How long its generations took.
    """

    def __init__(
        self, read_status: Callable[[], WorkerStatus | None], read_times: Callable[[], TimesStatistics]
    ) -> None:
        self._read_status = read_status
        self._read_times = read_times

    def collect(self) -> Iterator[Metric]:
        status = self._read_status()
        if status is None:
            return
        yield from _state_metrics(status)
        yield from _engine_metrics(status.engine or EngineReport())
        yield from _time_metrics(self._read_times(), status.model)


def _state_metrics(status: WorkerStatus) -> Iterator[Metric]:
    states: Values = {(state,): state == status.state for state in STATES}
    yield gauge("parrot_worker_state", "1 for the state that the worker is in", states, ("state",))
    fraction = status.loading.fraction if status.loading is not None else 1.0
    yield gauge("parrot_worker_loading_ratio", "How much of the present stage of loading is done", {(): fraction})
    yield gauge("parrot_worker_slots", "Generations that the worker runs at a time", {(): status.num_slots})
    yield gauge("parrot_worker_generations", "Generations that the worker has", {(): len(status.running)})


def _engine_metrics(engine: EngineReport) -> Iterator[Metric]:
    for field, (name, help_) in _GAUGES.items():
        yield gauge(name, help_, {(): getattr(engine, field)})
    for field, (name, help_) in _COUNTERS.items():
        yield counter(name, help_, {(): getattr(engine, field)})
    yield summary("parrot_engine_step_seconds", "Time of a step", {(): (engine.num_steps, engine.step_s)})
    batches = (engine.num_steps, float(engine.num_batched))
    yield summary("parrot_engine_batch_size", "Generations in a step", {(): batches})
    yield gauge("parrot_kv_cache_page_size_tokens", "Tokens in a page", {(): engine.page_size})
    yield gauge("parrot_kv_cache_pages", "Pages of the KV cache, by what they hold", _pages(engine), ("state",))


def _pages(engine: EngineReport) -> Values:
    """Each page once: free, used by what runs, kept for what unfinished tasks need, or kept in case."""
    used = engine.num_pages - engine.num_free_pages - engine.num_cached_pages
    return {
        ("free",): engine.num_free_pages,
        ("used",): used,
        ("pinned",): engine.num_pinned_pages,
        ("cached",): engine.num_cached_pages - engine.num_pinned_pages,
    }


def _time_metrics(times: TimesStatistics, model: str) -> Iterator[Metric]:
    """The names and labels of OpenTelemetry's conventions for generative AI, as Prometheus writes them."""
    labels = ("gen_ai_request_model",)
    yield histogram(
        "gen_ai_server_time_to_first_token_seconds",
        "From the assignment to the first text",
        {(model,): times.first_token},
        labels,
    )
    yield histogram(
        "gen_ai_server_time_per_output_token_seconds",
        "Time of each token after the first, a mean over the generation",
        {(model,): times.output_token},
        labels,
    )
    yield histogram(
        "gen_ai_server_request_duration_seconds",
        "From the assignment to the end; error_type is empty where there was no error",
        {(model, code): seen for code, seen in times.duration.items()},
        (*labels, "error_type"),
    )
    failed: Values = {(code,): num for code, num in times.num_failed.items()}
    yield counter("parrot_generations_failed", "Generations that ended without a value, by code", failed, ("code",))
