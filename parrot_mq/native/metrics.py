"""A host of native functions for Prometheus. Imported where metrics are switched on: it needs prometheus-client."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import Metric

from parrot_mq.native.statistics import HostStatistics
from parrot_mq.observability import Distribution
from parrot_mq.observability.metrics import counter, gauge, histogram

__all__ = ["NativeCollector"]


class NativeCollector:
    """Calls by function: how many wait, run and do not return, how they ended, how long they took.

    Args:
        read: How the host stands.
    """

    def __init__(self, read: Callable[[], HostStatistics]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield one family after the other."""
        host = self._read()
        states: dict[tuple[str, ...], float] = {}
        ended: dict[tuple[str, ...], float] = {}
        for name, each in host.functions.items():
            states[name, "waiting"] = each.num_waiting
            states[name, "running"] = each.num_running
            states[name, "overdue"] = each.num_overdue
            ended |= {(name, result): number for result, number in each.num_ended.items()}
        durations: dict[tuple[str, ...], Distribution] = {
            (name,): each.duration for name, each in host.functions.items()
        }
        yield gauge("parrot_native_host_places", "Calls that run at a time, at most", {(): host.concurrency})
        yield gauge("parrot_native_host_calls", "Calls here; overdue ones do not return", states, ("function", "state"))
        yield counter("parrot_native_host_ended", "Calls that ended, by how", ended, ("function", "result"))
        yield histogram("parrot_native_host_duration_seconds", "Time that the code took", durations, ("function",))
