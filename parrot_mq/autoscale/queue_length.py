"""A scaler that only counts, to compare with: KEDA's NATS JetStream scaler with the Horizontal Pod Autoscaler."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from parrot_mq.autoscale.config import PolicyConfig
from parrot_mq.autoscale.observation import Decision, DecisionKind, Observation
from parrot_mq.autoscale.window import Window

__all__ = ["QueueLengthScaler"]

TOLERANCE = 0.1
DOWN_WINDOW_S = 300.0
COOLDOWN_S = 300.0
UP_PERIOD_S = 15.0
UP_WORKERS = 4


@dataclass(slots=True)
class QueueLengthScaler:
    """So many workers as the messages that wait or run need, with `lag_threshold` for each.

    It looks as often as the policy does, which is more often than KEDA (30 s) and the autoscaler of pods (15 s) do.

    Attributes:
        config: Bounds of the number of workers.
        lag_threshold: Messages for each worker: as many as it has slots.

    Source: KEDA's documentation of the scaler `nats-jetstream` (lag is what waits and what is not acknowledged;
    `cooldownPeriod` 300 s, only to zero) and Kubernetes' of the Horizontal Pod Autoscaler: tolerance 0.1, up by at most
    the larger of 100 % and 4 pods in 15 s, down to the most that was wanted in 300 s.
    """

    config: PolicyConfig
    lag_threshold: float
    _wanted: Window = field(default_factory=Window)
    _busy_at: float = -math.inf
    _up_from: tuple[float, int] = (-math.inf, 0)

    def __call__(self, seen: Observation) -> Decision:
        """Decide as `decide` does."""
        now, have = seen.now, seen.num_workers
        if seen.demand is None or seen.age_s > self.config.max_age_s:
            return Decision(have, have, have, "hold", "no metrics: nothing is changed")
        lag = seen.num_waiting + seen.num_running
        if lag:
            self._busy_at = now
        wanted = self._within(math.ceil(lag / self.lag_threshold), lag, seen)
        if have and abs(lag / (self.lag_threshold * have) - 1) <= TOLERANCE:
            wanted = have
        self._wanted.note(now, wanted, keep_s=DOWN_WINDOW_S)
        target = max(wanted, min(have, math.ceil(self._wanted.max())))
        if target > have:
            target = min(target, self._most_after(now, have))
        if have and not target and now - self._busy_at < COOLDOWN_S:
            target = 1
        kind: DecisionKind = "up" if target > have else "down" if target < have else "steady"
        return Decision(target, wanted, have, kind, f"{lag} messages")

    def _within(self, wanted: int, lag: int, seen: Observation) -> int:
        most = self.config.max_workers if seen.num_usable is None else min(self.config.max_workers, seen.num_usable)
        return min(most, max(self.config.min_workers, wanted, 1 if lag else 0))

    def _most_after(self, now: float, have: int) -> int:
        if now - self._up_from[0] >= UP_PERIOD_S:
            self._up_from = now, have
        return self._up_from[1] + max(self._up_from[1], UP_WORKERS)
