"""How much work comes, by the counters of a dispatcher."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import NamedTuple

from parrot_mq.messages import ModelDemand, Work

__all__ = ["Arrivals", "Flow"]


class Flow(NamedTuple):
    """What came in a second, in the mean."""

    num_generations: float
    num_prefill_tokens: float
    num_output_tokens: float


class _Sample(NamedTuple):
    """What had come by some time, since the first sample."""

    at: float
    num_generations: int
    num_prefill_tokens: int
    num_output_tokens: int


@dataclass(slots=True)
class Arrivals:
    """Adds up what came, across restarts of the dispatcher, whose counters begin anew then."""

    _samples: deque[_Sample] = field(default_factory=deque)
    _last: Work = field(default_factory=Work)
    _since: float | None = None

    def note(self, now: float, demand: ModelDemand, *, keep_s: float) -> None:
        """Take in what the dispatcher says; times must not go back."""
        last = self._last if demand.since == self._since else demand.arrived
        self._last, self._since = demand.arrived, demand.since
        before = self._samples[-1] if self._samples else _Sample(now, 0, 0, 0)
        self._samples.append(
            _Sample(
                now,
                before.num_generations + max(0, demand.arrived.num_generations - last.num_generations),
                before.num_prefill_tokens + max(0, demand.arrived.num_prefill_tokens - last.num_prefill_tokens),
                before.num_output_tokens + max(0, demand.arrived.num_output_tokens - last.num_output_tokens),
            )
        )
        while len(self._samples) > 1 and self._samples[1].at <= now - keep_s:
            self._samples.popleft()

    def flow(self, window_s: float) -> Flow:
        """What came in a second, over about the last `window_s`; zero as long as too little is known."""
        if len(self._samples) < 2:
            return Flow(0.0, 0.0, 0.0)
        oldest = self._samples[self._index(window_s)]
        return _between(oldest, self._samples[-1])

    def usual_flow(self, window_s: float) -> Flow:
        """What came in a second over about the last `window_s`, but no more than at its usual moment (the median).

        Many that come together, as the parallel parts of a program do, are no flow that goes on.
        """
        samples = list(islice(self._samples, self._index(window_s), None))
        flows = sorted(_between(before, after) for before, after in pairwise(samples))
        mean = self.flow(window_s)
        return min(mean, flows[(len(flows) - 1) // 2]) if flows else mean

    def _index(self, window_s: float) -> int:
        """The last sample that is at least as old."""
        at = self._samples[-1].at - window_s if self._samples else 0.0
        return max(0, bisect_right(self._samples, at, key=lambda sample: sample.at) - 1)


def _between(before: _Sample, after: _Sample) -> Flow:
    elapsed_s = max(after.at - before.at, 1e-9)
    return Flow(*((end - begin) / elapsed_s for begin, end in zip(before[1:], after[1:], strict=True)))
