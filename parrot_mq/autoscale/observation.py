"""What the scaling policy sees, keeps, and decides: plain values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple

from parrot_mq.messages import ModelDemand, Work, WorkerRate

__all__ = ["Decision", "DecisionKind", "Learned", "Observation", "Rate"]

RATE_WEIGHT = 0.05
"""What the newest figures count in what is known of a worker's speed."""
LOAD_WEIGHT = 0.3
"""What the newest start counts in what is known of how long a start takes."""

DecisionKind = Literal["steady", "up", "panic", "activate", "down", "to_zero", "hold", "wait"]
"""`activate` is up from zero, `panic` up at once because of a burst. `hold` changes nothing because nothing is known;
`wait` changes nothing yet, although another number is wanted."""


class Rate(NamedTuple):
    """What one worker does with all its slots in use.

    Attributes:
        prefill_tokens_per_s: Tokens of prompts that it reads in a second, doing nothing else.
        output_tokens_per_s: Tokens that it generates in a second, doing nothing else.
    """

    prefill_tokens_per_s: float
    output_tokens_per_s: float

    def seconds(self, work: Work) -> float:
        """How long it works at something."""
        return work.num_prefill_tokens / self.prefill_tokens_per_s + work.num_output_tokens / self.output_tokens_per_s


@dataclass(slots=True)
class Learned:
    """What outlives a restart of the autoscaler; plain values, to be kept in a file.

    Attributes:
        prefill_tokens_per_s: As in `Rate`; 0 until a worker was seen at work.
        output_tokens_per_s: As in `Rate`; 0 until a worker was seen at work.
        num_full: Generations that a worker runs at a time; 0 until one was seen.
        load_s: Seconds from the start of a worker until it is ready; 0 until one was seen.
    """

    prefill_tokens_per_s: float = 0.0
    output_tokens_per_s: float = 0.0
    num_full: float = 0.0
    load_s: float = 0.0

    @property
    def rate(self) -> Rate | None:
        """What a worker does; None until that was seen."""
        if self.prefill_tokens_per_s <= 0 or self.output_tokens_per_s <= 0:
            return None
        return Rate(self.prefill_tokens_per_s, self.output_tokens_per_s)

    def rates(self, workers: Sequence[WorkerRate]) -> None:
        """Learn from what the dispatcher says of workers; of one that has nothing to do it says only its slots."""
        known = [each for each in workers if each.prefill_tokens_per_s > 0 and each.output_tokens_per_s > 0]
        if not known:
            self.num_full = self.num_full or max((float(each.num_slots) for each in workers), default=0.0)
            return
        self.prefill_tokens_per_s = _learn(
            self.prefill_tokens_per_s, fmean(each.prefill_tokens_per_s for each in known), RATE_WEIGHT
        )
        self.output_tokens_per_s = _learn(
            self.output_tokens_per_s, fmean(each.output_tokens_per_s for each in known), RATE_WEIGHT
        )
        self.num_full = _learn(self.num_full, fmean(each.num_full for each in known), RATE_WEIGHT)

    def load(self, loads_s: Iterable[float]) -> None:
        """Learn how long workers took until they were ready."""
        for load_s in loads_s:
            self.load_s = _learn(self.load_s, load_s, LOAD_WEIGHT)


def _learn(known: float, seen: float, weight: float) -> float:
    """A mean in which the newest counts most; the first is taken as it is."""
    return known + weight * (seen - known) if known > 0 else seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What is seen of one model at a moment.

    Attributes:
        now: Monotonic seconds.
        demand: What there is to do, by the dispatcher; None if it has never said.
        age_s: How old that is.
        num_ready: Workers that take work.
        num_starting: Workers that were started and are not ready.
        num_stopping: Workers that are on their way out; they are not capacity, but may be taken back.
        num_young: Of the ready ones, those that are ready for less than `min_uptime_s`.
        num_fixed: Of the ready and starting ones, those that must not be stopped: others have started them.
        num_usable: Most workers that can run at present; fewer than configured if slots are in quarantine.
        loads_s: Seconds that each worker took that became ready since the last observation.
    """

    now: float
    demand: ModelDemand | None
    age_s: float = 0.0
    num_ready: int = 0
    num_starting: int = 0
    num_stopping: int = 0
    num_young: int = 0
    num_fixed: int = 0
    num_usable: int | None = None
    loads_s: tuple[float, ...] = ()

    @property
    def num_workers(self) -> int:
        """Workers that there are, or will be in a moment."""
        return self.num_ready + self.num_starting

    @property
    def num_waiting(self) -> int:
        """Generations that wait for a worker."""
        demand = self.demand
        return demand.latency_ready.num_generations + demand.throughput_ready.num_generations if demand else 0

    @property
    def num_running(self) -> int:
        """Generations that a worker has."""
        demand = self.demand
        return demand.latency_running.num_generations + demand.throughput_running.num_generations if demand else 0


class Decision(NamedTuple):
    """How many workers there should be now, and why.

    Attributes:
        target: Ready and starting ones together. Equal to what there is unless something is to change.
        wanted: How many the work calls for, which is reached in steps.
        num_workers: How many there are.
        kind: What is decided.
        reason: One sentence for people.
    """

    target: int
    wanted: int
    num_workers: int
    kind: DecisionKind
    reason: str

    @property
    def change(self) -> int:
        """Workers to start; to stop if it is below 0."""
        return self.target - self.num_workers
