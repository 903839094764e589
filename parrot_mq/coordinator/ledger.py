"""What a dispatcher knows of one worker."""

from __future__ import annotations

from dataclasses import dataclass, field

from parrot_mq.actors import RemoteRef
from parrot_mq.coordinator.ready import ReadyGeneration
from parrot_mq.messages import WorkerStatus

__all__ = ["Running", "WorkerLedger"]


@dataclass(slots=True)
class Running:
    """A generation at a worker.

    Attributes:
        since: When it was sent there (monotonic seconds).
        num_missed: Heartbeats in a row, once it should have arrived, that did not name it.
    """

    generation: ReadyGeneration
    since: float
    num_missed: int = 0


@dataclass(slots=True)
class WorkerLedger:
    """What one worker has: its own words, and what was assigned to it."""

    status: WorkerStatus
    ref: RemoteRef
    running: dict[str, Running] = field(default_factory=dict)
    adopted: set[str] = field(default_factory=set)
    """Keys that it runs for an earlier coordinator, and that nobody has enqueued here yet."""
    is_suspended: bool = False
    """It gave work back or could not be reached; it gets no more before it is heard of again."""
    pinned: frozenset[str] | None = None
    """The prefixes that it was told to keep; None if it was told nothing since it began."""

    @property
    def worker(self) -> str:
        """The worker's id."""
        return self.status.worker

    @property
    def num_free(self) -> int:
        """How many generations it takes now."""
        if self.status.state != "ready" or self.is_suspended:
            return 0
        return self.status.num_slots - len(self.running) - len(self.adopted)

    @property
    def can_pin(self) -> bool:
        """Whether it keeps prefixes, as far as it has said."""
        engine = self.status.engine
        return self.status.state in ("ready", "draining") and engine is not None and engine.page_size > 0

    def find_lost(self, *, sent_before: float) -> tuple[str, ...]:
        """Keys that were sent in time and that the worker, by its own words, does not have.

        Once is not enough: what it has just finished is not in its words, and the value may still be on its way here.
        """
        has = set(self.status.running)
        for key, running in self.running.items():
            is_missing = key not in has and running.since < sent_before
            running.num_missed = running.num_missed + 1 if is_missing else 0
        return tuple(key for key, running in self.running.items() if running.num_missed > 1)
