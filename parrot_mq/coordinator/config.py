"""Settings of a coordinator."""

from __future__ import annotations

from dataclasses import dataclass, field

from parrot_mq.coordinator.tenants import Tenants
from parrot_mq.errors import ConfigurationError
from parrot_mq.types import check_name

__all__ = ["CoordinatorConfig", "Mechanisms"]

_NOT_NEGATIVE = (
    "settle_s",
    "model_grace_s",
    "function_grace_s",
    "max_pins",
    "max_wait_s",
    "max_holder_wait_s",
    "max_backlog_s",
    "session_keep_s",
    "session_max_lead_s",
    "min_prefill_chars",
    "max_prefills",
)


@dataclass(frozen=True, kw_only=True)
class Mechanisms:
    """What a dispatcher makes of what it knows; each can be switched off, to see what it is good for.

    Attributes:
        objectives: Urgent work goes first, and a worker with latency work gets no more than that work can bear.
            Without it every generation counts as throughput, and the oldest goes first.
        prefix_groups: What shares a prefix, and what belongs to one node group, goes together.
        affinity: A worker that holds the prefix, or that ran the session before, is preferred and may be waited for.
        costs: The worker that costs least is chosen. Without it those that have room take turns.
        pacing: A worker gets no more prompts than it reads in a moment; the others wait where they can be overtaken.
        prefill_ahead: Known beginnings of prompts are computed while the rest is generated.
        fairness: Tenants share by tokens and weights. Without it all count as one.
        continuation: What was generated at a worker that is lost goes to the next one.
    """

    objectives: bool = True
    prefix_groups: bool = True
    affinity: bool = True
    costs: bool = True
    pacing: bool = True
    prefill_ahead: bool = True
    fairness: bool = True
    continuation: bool = True


@dataclass(frozen=True, kw_only=True)
class CoordinatorConfig:
    """Settings of a coordinator, checked when they are made.

    Attributes:
        node: Name of the coordinator on the bus, the same for all that take turns; workers address it.
        process: Name of this process, for people.
        models: Models that are served even while no worker runs (an autoscaler will start one).
        lease_s: A worker that was not heard of for this long is lost, and its work is given to others.
        settle_s: After a start, how long workers may take to say what they already run before work is assigned.
        model_grace_s: After a start, how long tasks for a model that nobody serves may wait for a worker to appear.
        function_grace_s: How long nobody may serve a native function until calls of it fail.
        max_calls_per_tenant: Most calls of native functions that one tenant has at hosts; a function of which nothing
            runs may have one beyond that, up to as many again.
        session_idle_s: A session without work is dropped from memory after this; its facts stay.
        max_batch: Most generations in one assignment.
        max_attempts: After so many lost attempts a generation is given up.
        max_pins: Most prefixes that a worker is told to keep for unfinished tasks; 0 tells it none.
        assign_timeout_s: How long a worker may take to say that it has a batch.
        max_wait_s: After so long what is not urgent counts as urgent.
        max_holder_wait_s: Longest wait for a worker that has a prefix; never longer than computing it would take.
        max_backlog_s: A worker that needs longer to read the prompts that it has gets no more of them.
        session_keep_s: A session that was without work for longer comes anew, after all others.
        session_max_lead_s: What a session submits late counts as submitted at most so much earlier.
        min_prefill_chars: Shorter beginnings of prompts are not computed ahead.
        max_prefills: Most beginnings that a worker has still to compute ahead.
        tenants: What each tenant may use.
        mechanisms: What the dispatchers make of what they know.
    """

    node: str = "coordinator"
    process: str = ""
    models: tuple[str, ...] = ()
    lease_s: float = 3.0
    settle_s: float = 0.3
    model_grace_s: float = 10.0
    function_grace_s: float = 10.0
    max_calls_per_tenant: int = 256
    session_idle_s: float = 300.0
    max_batch: int = 64
    max_attempts: int = 5
    max_pins: int = 256
    assign_timeout_s: float = 5.0
    max_wait_s: float = 10.0
    max_holder_wait_s: float = 1.0
    max_backlog_s: float = 0.3
    session_keep_s: float = 2.0
    session_max_lead_s: float = 300.0
    min_prefill_chars: int = 256
    max_prefills: int = 8
    tenants: Tenants = field(default_factory=Tenants)
    mechanisms: Mechanisms = field(default_factory=Mechanisms)

    def __post_init__(self) -> None:
        check_name("node", self.node)
        for name in ("lease_s", "session_idle_s", "assign_timeout_s"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name} must be above 0 seconds, got {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("max_batch", "max_attempts", "max_calls_per_tenant"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {getattr(self, name)}")
