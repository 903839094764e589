"""What a host of native functions has done, and does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from parrot_mq.observability import Distribution, Histogram

__all__ = ["CallEnd", "HostStatistics", "ServedCounts", "ServedStatistics"]

_BOUNDS_S = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

CallEnd = Literal["returned", "failed", "retryable", "timed_out", "cancelled", "refused"]
"""How a call ended here: with a value; with an error that is final, or after which it may be attempted again; after its
time; because nobody wanted it any more; without being begun, for there was no room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedStatistics:
    """The calls of one function.

    Attributes:
        num_waiting: Calls that wait for a place.
        num_running: Calls that somebody waits for, and that run.
        num_overdue: Calls that were given up, and whose code has not returned: each keeps a place.
        num_ended: Calls that have ended, by how.
        duration: Seconds that the code took, of calls that ended by themselves.
    """

    num_waiting: int
    num_running: int
    num_overdue: int
    num_ended: Mapping[CallEnd, int]
    duration: Distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatistics:
    """A host.

    Attributes:
        name: What it is called.
        concurrency: Places: how many calls run at a time.
        functions: Its functions, by name.
    """

    name: str
    concurrency: int
    functions: Mapping[str, ServedStatistics]

    @property
    def num_overdue(self) -> int:
        """Places that are taken by code that does not return."""
        return sum(each.num_overdue for each in self.functions.values())


@dataclass(slots=True)
class ServedCounts:
    """Counts the calls of one function."""

    num_waiting: int = 0
    num_running: int = 0
    num_overdue: int = 0
    num_ended: Counter[CallEnd] = field(default_factory=Counter)
    duration: Histogram = field(default_factory=lambda: Histogram(_BOUNDS_S))

    def statistics(self) -> ServedStatistics:
        """How it stands."""
        return ServedStatistics(
            num_waiting=self.num_waiting,
            num_running=self.num_running,
            num_overdue=self.num_overdue,
            num_ended=dict(self.num_ended),
            duration=self.duration.statistics(),
        )
