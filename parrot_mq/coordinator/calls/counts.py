"""What became of the calls of native functions, counted by function."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from parrot_mq.messages import FunctionStatus
from parrot_mq.observability import Distribution, Histogram

__all__ = ["OTHERS", "CallCounts", "CallResult", "FunctionStatistics"]

MAX_REPORTED = 100
MAX_FUNCTIONS = 1_000
"""Functions that are counted by name; tenants choose the names."""
OTHERS = "(others)"
"""All further ones together; no function has such a name."""
_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

CallResult = Literal["returned", "failed", "not_served", "cancelled"]
"""How a call ended; `cancelled` is one whose result was not wanted any more, or came from elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionStatistics:
    """The calls of one native function, in all sessions.

    Attributes:
        num_waiting: Calls that wait for their turn.
        num_running: Calls that were started: at a host, or between two attempts.
        num_ended: Calls that have ended, by how.
        num_lost: Attempts that failed and may be followed by another one.
        num_busy: How often a host had no room.
        duration: Seconds that the attempts took that brought an answer.
    """

    num_waiting: int
    num_running: int
    num_ended: Mapping[CallResult, int]
    num_lost: int
    num_busy: int
    duration: Distribution


@dataclass(slots=True)
class _Function:
    num_waiting: int = 0
    num_running: int = 0
    num_ended: Counter[CallResult] = field(default_factory=Counter)
    num_lost: int = 0
    num_busy: int = 0
    duration: Histogram = field(default_factory=lambda: Histogram(_BOUNDS_S))


class CallCounts:
    """Counts calls. It outlives the actor that makes them."""

    def __init__(self) -> None:
        self._functions: dict[str, _Function] = {}

    def begin(self) -> None:
        """Nothing waits and nothing runs."""
        for each in self._functions.values():
            each.num_waiting = each.num_running = 0

    def came(self, function: str) -> None:
        """A call waits."""
        self._of(function).num_waiting += 1

    def started(self, function: str) -> None:
        """One that waits was started."""
        counts = self._of(function)
        counts.num_waiting -= 1
        counts.num_running += 1

    def withdrawn(self, function: str) -> None:
        """One that waits is not wanted any more."""
        counts = self._of(function)
        counts.num_waiting -= 1
        counts.num_ended["cancelled"] += 1

    def ended(self, function: str, result: CallResult) -> None:
        """One that was started has ended."""
        counts = self._of(function)
        counts.num_running -= 1
        counts.num_ended[result] += 1

    def returned(self, function: str, duration_s: float) -> None:
        """An attempt brought an answer that can be used."""
        self._of(function).duration.observe(duration_s)

    def lost(self, function: str) -> None:
        """An attempt failed."""
        self._of(function).num_lost += 1

    def busy(self, function: str) -> None:
        """A host had no room."""
        self._of(function).num_busy += 1

    def _of(self, function: str) -> _Function:
        known = self._functions.get(function)
        if known is None:
            name = function if len(self._functions) < MAX_FUNCTIONS else OTHERS
            known = self._functions.setdefault(name, _Function())
        return known

    def report(self) -> list[FunctionStatus]:
        """The functions of which most calls are unfinished, as they travel."""
        found = sorted((_to_wire(*each) for each in self._functions.items()), key=lambda each: each.function)
        return heapq.nlargest(MAX_REPORTED, found, key=lambda each: each.num_waiting + each.num_running)

    def statistics(self) -> dict[str, FunctionStatistics]:
        """All that was counted, by function."""
        return {
            name: FunctionStatistics(
                num_waiting=each.num_waiting,
                num_running=each.num_running,
                num_ended=dict(each.num_ended),
                num_lost=each.num_lost,
                num_busy=each.num_busy,
                duration=each.duration.statistics(),
            )
            for name, each in self._functions.items()
        }


def _to_wire(name: str, counts: _Function) -> FunctionStatus:
    duration = counts.duration.statistics()
    return FunctionStatus(
        function=name,
        num_waiting=counts.num_waiting,
        num_running=counts.num_running,
        num_returned=counts.num_ended["returned"],
        num_failed=counts.num_ended["failed"] + counts.num_ended["not_served"],
        num_lost=counts.num_lost,
        mean_s=duration.total / max(1, duration.num_values),
    )
