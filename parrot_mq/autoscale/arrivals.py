"""How much work comes, by the counters of a dispatcher."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
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
        newest = self._samples[-1]
        index = bisect_right(self._samples, newest.at - window_s, key=lambda sample: sample.at) - 1
        oldest = self._samples[max(0, index)]
        elapsed_s = max(newest.at - oldest.at, 1e-9)
        return Flow(*((end - begin) / elapsed_s for begin, end in zip(oldest[1:], newest[1:], strict=True)))
