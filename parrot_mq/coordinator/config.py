"""Settings of a coordinator."""

from __future__ import annotations

from dataclasses import dataclass

from parrot_mq.errors import ConfigurationError
from parrot_mq.types import check_name

__all__ = ["CoordinatorConfig"]


@dataclass(frozen=True, kw_only=True)
class CoordinatorConfig:
    """Settings of a coordinator, checked when they are made.

    Attributes:
        node: Name of this process; workers address it.
        models: Models that are served even while no worker runs (an autoscaler will start one).
        lease_s: A worker that was not heard of for this long is lost, and its work is given to others.
        settle_s: After a start, how long workers may take to say what they already run before work is assigned.
        model_grace_s: After a start, how long tasks for a model that nobody serves may wait for a worker to appear.
        session_idle_s: A session without work is dropped from memory after this; its facts stay.
        max_batch: Most generations in one assignment.
        max_attempts: After so many lost attempts a generation is given up.
        max_pins: Most prefixes that a worker is told to keep for unfinished tasks; 0 tells it none.
        assign_timeout_s: How long a worker may take to say that it has a batch.
    """

    node: str = "coordinator"
    models: tuple[str, ...] = ()
    lease_s: float = 3.0
    settle_s: float = 0.3
    model_grace_s: float = 10.0
    session_idle_s: float = 300.0
    max_batch: int = 64
    max_attempts: int = 5
    max_pins: int = 256
    assign_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        check_name("node", self.node)
        for name in ("lease_s", "session_idle_s", "assign_timeout_s"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name} must be above 0 seconds, got {getattr(self, name)}")
        for name in ("settle_s", "model_grace_s", "max_pins"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("max_batch", "max_attempts"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {getattr(self, name)}")
