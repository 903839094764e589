"""What is to be seen of a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from parrot_mq.messages import WorkerStatus
from parrot_workers.times import GenerationTimes

__all__ = ["WorkerBoard"]


@dataclass(slots=True)
class WorkerBoard:
    """Where a worker leaves what is to be seen of it; it outlives the worker's failures.

    Attributes:
        times: How long its generations took.
        read_status: What the worker says of itself now.
        read_step_s: For how long the engine has been in the step that it is in.
    """

    times: GenerationTimes = field(default_factory=GenerationTimes)
    read_status: Callable[[], WorkerStatus] | None = None
    read_step_s: Callable[[], float] = lambda: 0.0

    def status(self) -> WorkerStatus | None:
        """Ask it; none before it exists."""
        return None if self.read_status is None else self.read_status()
