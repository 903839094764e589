"""A coordinator for Prometheus. Imported where metrics are switched on: it needs prometheus-client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import get_args

from prometheus_client import Metric

from parrot_mq.coordinator.calls.counts import CallResult, FunctionStatistics
from parrot_mq.coordinator.statistics import CoordinatorStatistics, DispatcherStatistics, LeaderStatistics
from parrot_mq.observability import Distribution
from parrot_mq.observability.metrics import counter, gauge, histogram

__all__ = ["CoordinatorCollector", "LeaderCollector"]

RESULTS: tuple[CallResult, ...] = get_args(CallResult)
STATES = ("loading", "ready", "standby", "draining")

_GAUGES = {
    "num_ready": ("parrot_generations_ready", "Generations that wait for a worker with room"),
    "num_urgent": ("parrot_generations_urgent", "Of the ready ones, generations that somebody waits for"),
    "num_expected": ("parrot_generations_expected", "Generations that wait for variables, their prompts known in part"),
    "num_running": ("parrot_generations_running", "Generations that a worker has"),
}
_COUNTERS = {
    "num_batches": ("parrot_batches", "Batches that were sent to workers"),
    "num_assigned": ("parrot_generations_assigned", "Generations that were sent to workers"),
    "num_returned": ("parrot_generations_returned", "Generations that came back unfinished"),
    "num_continued": ("parrot_generations_continued", "Generations that went on after what was generated before"),
    "num_prefills": ("parrot_prefills_ahead", "Beginnings of prompts that workers were asked to compute ahead"),
    "num_given_up": ("parrot_generations_given_up", "Generations that were given up after too many attempts"),
}
_CALL_GAUGES = {
    "num_waiting": ("parrot_native_calls_waiting", "Calls of native functions that wait for their turn"),
    "num_running": ("parrot_native_calls_running", "Calls of native functions that were started"),
}
_CALL_COUNTERS = {
    "num_lost": ("parrot_native_attempts_lost", "Attempts at calls that failed"),
    "num_busy": ("parrot_native_calls_refused", "How often a host had no room for a call"),
}


class CoordinatorCollector:
    """What there is to do, who is there to do it, and what was done.

    Args:
        read: The statistics of the coordinator.
    """

    def __init__(self, read: Callable[[], CoordinatorStatistics]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        found = self._read()
        yield gauge("parrot_tasks_unfinished", "Tasks that are not finished", {(): found.num_unfinished})
        for field, (name, help_) in _GAUGES.items():
            yield gauge(name, help_, _by_model(found.dispatchers, field), ("model",))
        for field, (name, help_) in _COUNTERS.items():
            yield counter(name, help_, _by_model(found.dispatchers, field), ("model",))
        yield gauge("parrot_workers", "Workers that were heard of, by state", _by_state(found), ("model", "state"))
        slots = Counter[tuple[str, ...]]()
        for worker in found.workers:
            slots[(worker.model,)] += worker.num_slots if worker.state == "ready" else 0
        yield gauge("parrot_slots", "Generations that the ready workers run at a time", slots, ("model",))
        yield from _of_functions(found.functions)


class LeaderCollector:
    """Whether this process leads.

    Args:
        read: The statistics of the candidate.
    """

    def __init__(self, read: Callable[[], LeaderStatistics]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        found = self._read()
        yield gauge(
            "parrot_coordinator_is_leader", "1 where the coordinator leads, 0 where it stands by", {(): found.leads}
        )
        yield gauge("parrot_coordinator_term", "How often the lead was taken, by any coordinator", {(): found.term})
        yield counter("parrot_coordinator_terms", "How often this process has taken the lead", {(): found.num_terms})


def _by_model(dispatchers: Mapping[str, DispatcherStatistics], field: str) -> dict[tuple[str, ...], float]:
    return {(model,): getattr(each, field) for model, each in dispatchers.items()}


def _of_functions(functions: Mapping[str, FunctionStatistics]) -> Iterator[Metric]:
    """Calls of native functions."""
    for field, (name, help_) in _CALL_GAUGES.items():
        yield gauge(name, help_, _by_function(functions, field), ("function",))
    for field, (name, help_) in _CALL_COUNTERS.items():
        yield counter(name, help_, _by_function(functions, field), ("function",))
    ended: dict[tuple[str, ...], float] = {
        (name, result): each.num_ended.get(result, 0) for name, each in functions.items() for result in RESULTS
    }
    yield counter("parrot_native_calls", "Calls of native functions that have ended", ended, ("function", "result"))
    durations: dict[tuple[str, ...], Distribution] = {(name,): each.duration for name, each in functions.items()}
    yield histogram("parrot_native_call_duration_seconds", "Time from a call to its answer", durations, ("function",))


def _by_function(functions: Mapping[str, FunctionStatistics], field: str) -> dict[tuple[str, ...], float]:
    return {(name,): getattr(each, field) for name, each in functions.items()}


def _by_state(found: CoordinatorStatistics) -> dict[tuple[str, ...], float]:
    """Zeros too, so that an alarm on a model without workers has something to look at."""
    num: dict[tuple[str, ...], float] = {(model, state): 0 for model in found.dispatchers for state in STATES}
    for worker in found.workers:
        num[worker.model, worker.state] = num.get((worker.model, worker.state), 0) + 1
    return num
