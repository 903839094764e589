"""What a coordinator has to do, and what it has done: frozen records that tools and metrics read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from parrot_mq.coordinator.calls.counts import CallCounts, FunctionStatistics
from parrot_mq.coordinator.stories.history import History
from parrot_mq.messages import ModelDemand, WorkerStatus

__all__ = ["Board", "CoordinatorStatistics", "DispatcherStatistics", "LeaderStatistics", "Lease"]


@dataclass(slots=True)
class Lease:
    """The last word of a worker, and when it was heard (monotonic seconds)."""

    status: WorkerStatus
    heard_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatcherStatistics:
    """The work of one model.

    Attributes:
        num_ready: Generations that wait for a worker with room.
        num_urgent: Of these, generations that somebody waits for.
        num_expected: Generations that are not ready, of whose prompts something is known.
        num_running: Generations that a worker has.
        num_batches: Batches that were sent to workers, since the dispatcher began.
        num_assigned: Generations in these.
        num_returned: Generations that came back unfinished.
        num_continued: Of those assigned, generations that went on after what an earlier attempt had generated.
        num_given_up: Generations that were given up after too many attempts.
        num_prefills: Beginnings of prompts that workers were asked to compute ahead.
    """

    num_ready: int
    num_urgent: int = 0
    num_expected: int = 0
    num_running: int
    num_batches: int
    num_assigned: int
    num_returned: int
    num_continued: int = 0
    num_given_up: int
    num_prefills: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorStatistics:
    """The work of all models and native functions.

    Attributes:
        num_unfinished: Tasks that are not finished, in all sessions.
        dispatchers: The work of each model.
        workers: The last word of each worker whose lease lasts.
        functions: The calls of each native function.
    """

    num_unfinished: int
    dispatchers: Mapping[str, DispatcherStatistics]
    workers: tuple[WorkerStatus, ...]
    functions: Mapping[str, FunctionStatistics] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderStatistics:
    """Who leads, as one candidate sees it.

    Attributes:
        leads: Whether it leads itself, and is ready to.
        holder: Who has the lease; empty if nobody has, or has had.
        term: How often the lead was taken, by whom ever.
        num_terms: How often this candidate has taken it.
    """

    leads: bool
    holder: str
    term: int
    num_terms: int


@dataclass(frozen=True, slots=True)
class Board:
    """Where the actors of a coordinator leave what is to be seen of them; it outlives their failures."""

    leases: dict[str, Lease] = field(default_factory=dict)
    """The registry's, by worker."""
    dispatchers: dict[str, Callable[[], DispatcherStatistics]] = field(default_factory=dict)
    """By model: reads what its dispatcher counts."""
    demands: dict[str, Callable[[], ModelDemand]] = field(default_factory=dict)
    """By model: reads what its dispatcher has to do."""
    calls: CallCounts = field(default_factory=CallCounts)
    """What became of the calls of native functions."""
    history: History = field(default_factory=History)
    """What happened in sessions."""

    def statistics(self, *, num_unfinished: int) -> CoordinatorStatistics:
        """Read it all."""
        return CoordinatorStatistics(
            num_unfinished=num_unfinished,
            dispatchers={model: read() for model, read in self.dispatchers.items()},
            workers=tuple(lease.status for lease in self.leases.values()),
            functions=self.calls.statistics(),
        )
