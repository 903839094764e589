"""A histogram that costs a comparison or four to add to, and that can be read at any time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

__all__ = ["Distribution", "Histogram"]


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a histogram has seen.

    Attributes:
        bounds: Upper bounds of the buckets, rising; there is one more bucket above them.
        counts: Values in each bucket, the bound included.
        total: Sum of the values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def num_values(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    @property
    def cumulative(self) -> list[tuple[float, int]]:
        """Each bound, and how many values are not above it; at last infinity, and all."""
        return list(zip((*self.bounds, float("inf")), accumulate(self.counts), strict=True))


class Histogram:
    """Counts values by size.

    Args:
        bounds: Upper bounds of the buckets, rising.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Add a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def statistics(self) -> Distribution:
        """What it has seen so far."""
        return Distribution(self._bounds, tuple(self._counts), self._total)
