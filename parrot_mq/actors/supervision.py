"""What happens when an actor ends: policies, strategies, intensity. Values in, decision out; no I/O.

Source: the supervision principles of Erlang/OTP, https://www.erlang.org/doc/system/sup_princ.html
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

__all__ = ["RestartHistory", "RestartPolicy", "Strategy", "Supervision", "affected_children"]

T = TypeVar("T")


class RestartPolicy(Enum):
    """When a child that ended is started again."""

    PERMANENT = "permanent"
    """Always, also when it ended by its own `context.stop()`."""

    TRANSIENT = "transient"
    """Only when it failed."""

    TEMPORARY = "temporary"
    """Never."""

    def restarts(self, *, is_failure: bool) -> bool:
        """Whether a child of this kind is started again after it ended."""
        return self is RestartPolicy.PERMANENT or (self is RestartPolicy.TRANSIENT and is_failure)


class Strategy(Enum):
    """Which children are restarted together with the one that ended."""

    ONE_FOR_ONE = "one_for_one"
    """Only that one."""

    REST_FOR_ONE = "rest_for_one"
    """That one, and those that were started after it."""

    ONE_FOR_ALL = "one_for_all"
    """All of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """How a parent looks after its children.

    Attributes:
        strategy: Which children are restarted together.
        intensity: Most restarts within `period_s`; one more and the parent itself fails.
        period_s: Seconds over which restarts are counted.
        backoff_s: Seconds before the first restart of a child; doubled for each further one within `period_s`.
        max_backoff_s: Most seconds before a restart.
    """

    strategy: Strategy = Strategy.ONE_FOR_ONE
    intensity: int = 3
    period_s: float = 5.0
    backoff_s: float = 0.05
    max_backoff_s: float = 5.0

    def __post_init__(self) -> None:
        if self.intensity < 0:
            raise ValueError(f"intensity is a number of restarts, 0 or more, not {self.intensity}")
        if self.period_s <= 0:
            raise ValueError(f"period_s is more than 0 seconds, not {self.period_s}")
        if not 0 <= self.backoff_s <= self.max_backoff_s:
            raise ValueError(f"0 <= backoff_s <= max_backoff_s must hold, not {self.backoff_s}, {self.max_backoff_s}")

    def delay_s(self, num_failures: int) -> float:
        """Seconds to wait before the restart after the `num_failures`-th failure of one child (1 is the first)."""
        doublings = min(num_failures - 1, 63)  # 2.0**1024 would overflow
        return min(self.backoff_s * 2.0**doublings, self.max_backoff_s)


class RestartHistory:
    """Counts the restarts of one parent's children."""

    def __init__(self, supervision: Supervision) -> None:
        self._supervision = supervision
        self._restarts: deque[tuple[float, str]] = deque()

    def record(self, child: str, *, at: float) -> float | None:
        """Count one more end of `child`.

        Args:
            at: Now, seconds on any clock that never goes back.

        Returns:
            Seconds to wait before the restart, or None if `intensity` is exceeded.
        """
        self._restarts.append((at, child))
        while self._restarts[0][0] <= at - self._supervision.period_s:
            self._restarts.popleft()
        if len(self._restarts) > self._supervision.intensity:
            return None
        return self._supervision.delay_s(sum(name == child for _, name in self._restarts))


def affected_children(strategy: Strategy, children: Sequence[T], ended: T) -> list[T]:
    """The children to restart when `ended` ended; both lists are in the order of start."""
    match strategy:
        case Strategy.ONE_FOR_ONE:
            return [ended]
        case Strategy.REST_FOR_ONE:
            return list(children[children.index(ended) :])
        case Strategy.ONE_FOR_ALL:
            return list(children)
