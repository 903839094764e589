"""What a simulated network does to messages, by a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from parrot_mq.bus import Delivery, Link
from parrot_mq.bus.matching import matches
from parrot_mq.bus.streams import SUBJECTS
from parrot_mq.errors import ConfigurationError

__all__ = ["NetworkConditions", "SimulatedNetwork"]

_RELIABLE = (*SUBJECTS.values(), "pmq.*.set.>")


@dataclass(frozen=True, kw_only=True)
class NetworkConditions:
    """How bad a network is.

    Facts, and the server's word that they are stored, are not lost by chance: they are stored, and fetched again when a
    connection was cut. What is between processes is: tokens, events, requests, assignments, heartbeats.

    Attributes:
        delay_s: Seconds that every message takes one way.
        jitter_s: Up to so much more, by chance. No message overtakes another of the same connection.
        drop: Share of the core messages that are lost, 0 to 1.
        duplicate: Share of the core messages that arrive twice.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    drop: float = 0.0
    duplicate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("delay_s", "jitter_s"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} must not be negative, got {getattr(self, name)}", setting=name)
        for name in ("drop", "duplicate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"{name} must be from 0 to 1, got {getattr(self, name)}", setting=name)


class SimulatedNetwork:
    """Links and faults of one simulated world.

    Args:
        conditions: Between every connection and the server, unless a connection has its own.
        seed: Decides what is left to chance.
    """

    def __init__(self, conditions: NetworkConditions, *, seed: int) -> None:
        self.conditions = conditions
        self.is_calm = False
        """While it is set, nothing is lost or doubled."""
        self._rng = random.Random(f"network of {seed}")

    def link(self, conditions: NetworkConditions | None = None) -> Link:
        """A way to the server."""
        conditions = conditions or self.conditions
        if not conditions.jitter_s:
            return Link(conditions.delay_s)
        rng = random.Random(self._rng.random())
        return Link(lambda: conditions.delay_s + rng.random() * conditions.jitter_s)

    def fault(self, message: Delivery) -> Sequence[float]:
        """What becomes of one core message to one subscriber, as `FaultPolicy` says."""
        conditions = self.conditions
        if self.is_calm or not (conditions.drop or conditions.duplicate):
            return (0.0,)
        if any(matches(pattern, message.subject) for pattern in _RELIABLE):
            return (0.0,)
        if self._rng.random() < conditions.drop:
            return ()
        return (0.0, 0.0) if self._rng.random() < conditions.duplicate else (0.0,)
