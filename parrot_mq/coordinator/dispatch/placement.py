"""Which worker a job goes to: pure, no clock, no I/O.

Parrot's scheduler asks `FindEngine` for the engine "that satisfies the scheduling preference with minimal negative
impact", and leaves open how that is found. Here it is the worker with the least cost in seconds: what the job itself
takes there, and what it takes from those that run there.

Source: Parrot (OSDI'24) section 5.4, Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from parrot_mq.coordinator.dispatch.job import Job, Size
from parrot_mq.coordinator.dispatch.load import WorkerLoad
from parrot_mq.messages import Decision

__all__ = ["Cost", "Full", "Option", "Placement", "Placer", "Waiting", "find_cost", "has_room"]

THROUGHPUT_WEIGHT = 0.2
"""What a second of a throughput job counts, where one of a latency job counts 1."""
WORK_WEIGHT = 0.5
"""What a second counts that an engine works for the job, for whatever comes later has to wait for it."""
CLAIM_WEIGHT = 0.5
"""What a second counts in which a worker that had no latency job has one, if all other work is throughput work."""
LATE_WEIGHT = 4.0
"""What a second counts by which tokens come later than somebody wants them."""
SESSION_SHARE = 0.02
"""Part of the cost that may be given for going where the session ran last: what it generated is there."""
MIN_SAVED_S = 0.005
"""For a shorter prefill nobody waits."""
MAX_WAITERS = 16
"""Jobs that wait for one worker: each is looked at again in every round."""


class Cost(NamedTuple):
    """What it costs to run a job at a worker, in seconds, as expected.

    Attributes:
        wait_s: Until there is room.
        prefill_s: Until its prompt is read, after those that came before it.
        decode_s: Until its output is there, and what is late of it once more.
        harm_s: How much longer those that run there take, all together: a second of a throughput job counts less.
        work_s: What the engine does for it alone: a prefix that is there, or is read for others anyway, costs nothing.
        weight: What a second of the job itself counts.
    """

    wait_s: float
    prefill_s: float
    decode_s: float
    harm_s: float
    work_s: float
    weight: float

    @property
    def total_s(self) -> float:
        """All of it."""
        own_s = self.wait_s + self.prefill_s + self.decode_s
        return self.weight * own_s + self.harm_s + WORK_WEIGHT * self.work_s


class Placement(NamedTuple):
    """A job goes to a worker.

    Attributes:
        reason: Why, for people.
        num_held: Tokens of its prompt that the worker has.
        prefix: Hash of the longest prefix that the worker has; empty if it has none.
    """

    worker: str
    decision: Decision
    reason: str
    num_held: int = 0
    prefix: str = ""


class Waiting(NamedTuple):
    """A job had better wait for a worker that has its prefix, but not longer than `until` (monotonic seconds)."""

    worker: str
    until: float


class Full(NamedTuple):
    """No worker has room for a job now.

    Attributes:
        reserved: A worker that has a slot and not enough memory for it: what it has is to be left for this job, or it
            would never have its turn among smaller ones. None if there is no such worker.
        until: When a worker that has a slot will have read enough of its prompts; None if there is no such worker.
    """

    reserved: str | None = None
    until: float | None = None


class Option(NamedTuple):
    """A worker to which a job might go.

    Attributes:
        load: What runs there.
        num_held: Tokens of the job's prompt that it has in its cache.
        num_in_use: Of these, tokens that something which runs there reads in every step anyway.
    """

    load: WorkerLoad
    num_held: int = 0
    num_in_use: int = 0


def has_room(option: Option, job: Job, size: Size) -> bool:
    """Whether a job can go to a worker now: a slot, memory, and nobody there who could not bear it.

    A worker that has nothing takes anything. What has waited long enough goes wherever it fits.
    """
    return option.load.num_free > 0 and _has_memory(option, size) and _is_bearable(option, job, size)


def _has_memory(option: Option, size: Size) -> bool:
    """Whether it fits when half of all outputs is there: they grow while others end.

    An engine that runs out of memory all the same lets who came last wait, and computes that again. To keep room for
    whole outputs from the start would cost more: half of the memory would never be used.
    """
    load = option.load
    return not len(load) or not load.capacity or load.num_read + _own_read(option, size) <= load.capacity


def _is_bearable(option: Option, job: Job, size: Size) -> bool:
    """Latency work at a worker bounds what throughput work may be read in each of its steps."""
    load = option.load
    if job.is_latency or job.has_aged or not load.num_latency:
        return True
    return load.num_read + _own_read(option, size) <= load.max_read()


def find_cost(
    option: Option, job: Job, size: Size, *, now: float = 0.0, wait_s: float = 0.0, throughput_share: float = 0.0
) -> Cost:
    """What a job costs at a worker that has room after `wait_s`; the other arguments are as for `Placer.find`."""
    load, times, num_read = option.load, option.load.times, _own_read(option, size)
    num_unread = size.num_prompt - option.num_held
    step_s = times.step_s(load.num_read + num_read)
    prefill_s = load.backlog_s(now, is_latency=job.is_latency) + num_unread * load.prefill_s
    decode_s = size.num_output * (step_s + LATE_WEIGHT * _late_s(load, job, step_s))
    num_together = min(load.mean_left, size.num_output)
    slower_s = num_unread * times.prefill_s + num_together * times.read_s * num_read
    num_weighted = load.num_latency + THROUGHPUT_WEIGHT * load.num_throughput
    harm_s = num_weighted * slower_s + _cut_s(load, job, prefill_s + decode_s, throughput_share)
    work_s = num_unread * times.prefill_s + size.num_output * times.read_s * num_read
    return Cost(wait_s, prefill_s, decode_s, harm_s, work_s, 1.0 if job.is_latency else THROUGHPUT_WEIGHT)


def _own_read(option: Option, size: Size) -> float:
    """Tokens that a job adds to each step, in the mean."""
    return size.num_prompt - option.num_in_use + size.num_output / 2


def _late_s(load: WorkerLoad, job: Job, step_s: float) -> float:
    """By how much each token comes later than the job, or somebody who runs there, wants it."""
    targets = [each for each in (_tpot_s(job), load.tpot_target_s) if each is not None]
    return max(0.0, step_s - min(targets)) if targets else 0.0


def _cut_s(load: WorkerLoad, job: Job, duration_s: float, throughput_share: float) -> float:
    """What throughput work loses because a latency job comes, beside which less of it can run, now or when it comes.

    Where a latency job runs already it has lost that before.
    """
    if not job.is_latency or load.num_latency:
        return 0.0
    num_bearable = load.max_read(_tpot_s(job))
    lost_share = max(0.0, 1.0 - num_bearable / load.num_read) if load.num_throughput else 0.0
    return duration_s * (THROUGHPUT_WEIGHT * load.num_throughput * lost_share + CLAIM_WEIGHT * throughput_share)


def _tpot_s(job: Job) -> float | None:
    tpot_ms = job.standing.objective.tpot_ms
    return None if tpot_ms is None else tpot_ms / 1e3


@dataclass(frozen=True, slots=True)
class Placer:
    """Chooses workers.

    Attributes:
        max_wait_s: Longest wait for a worker that has a prefix.
        max_backlog_s: A worker that needs longer to read the prompts that it has gets no more of them: here they can be
            overtaken by what is more urgent, and go to whoever is free first, and there they cannot.
        uses_affinity: Whether it matters who has a prefix, or ran the session before.
        uses_costs: Whether costs are compared; else the workers that have room take turns.
    """

    max_wait_s: float = 1.0
    max_backlog_s: float = math.inf
    uses_affinity: bool = True
    uses_costs: bool = True

    def find(
        self,
        job: Job,
        size: Size,
        loads: Iterable[WorkerLoad],
        held: Mapping[str, int],
        *,
        now: float,
        session_worker: str | None = None,
        num_waiting: Mapping[str, int] | None = None,
        throughput_share: float = 0.0,
    ) -> Placement | Waiting | Full:
        """Where a job goes, or that it waits.

        Args:
            job: The job.
            size: How large it is.
            loads: The workers that take work.
            held: Tokens of its prompt that workers have.
            now: Monotonic seconds.
            session_worker: Where its session ran last.
            num_waiting: How many jobs each worker is waited for by already.
            throughput_share: Of the jobs of late, how many are throughput work.
        """
        options = [Option(load, held.get(load.worker, 0), load.num_in_use(job, size)) for load in loads]
        able = [option for option in options if has_room(option, job, size)]
        if not able:
            return Full(_find_reserved(options, size))
        backlog_s = {each.load.worker: each.load.backlog_s(now, is_latency=job.is_latency) for each in able}
        roomy = [option for option in able if backlog_s[option.load.worker] <= self.max_backlog_s]
        if not roomy:
            return Full(until=now + min(backlog_s.values()) - self.max_backlog_s / 2)
        if not self.uses_costs:
            next_one = min(roomy, key=lambda option: option.load.turn)
            return _place(next_one, job, size, "least_harm", "it is its turn")
        if not self.uses_affinity:
            held, session_worker = {}, None
        best, cost_s = min(
            (
                (
                    option,
                    _rate(self._see(option), job, size, session_worker, now=now, throughput_share=throughput_share),
                )
                for option in roomy
            ),
            key=lambda rated: (rated[1], rated[0].load.turn),
        )
        if self.uses_affinity:
            waiting = self._find_better(options, best, cost_s, job, size, now=now, num_waiting=num_waiting or {})
            if waiting is not None:
                return waiting
        return _place(best, job, size, *_explain(best, job, size, held, session_worker))

    def _see(self, option: Option) -> Option:
        """What counts for the choice; how much room there is and what has to be computed does not depend on it."""
        return option if self.uses_affinity else Option(option.load)

    def _find_better(
        self,
        options: list[Option],
        best: Option,
        cost_s: float,
        job: Job,
        size: Size,
        *,
        now: float,
        num_waiting: Mapping[str, int],
    ) -> Waiting | None:
        """A worker that takes nothing now and has so much more of the prompt that it is better to wait for it.

        At most as long as the prefill would take that is saved, and as the settings allow.
        """
        since = now if job.waits_since is None else job.waits_since
        for option in options:
            load, num_before = option.load, num_waiting.get(option.load.worker, 0)
            saved_s = (option.num_held - best.num_held) * best.load.times.prefill_s
            if saved_s < MIN_SAVED_S or num_before >= MAX_WAITERS:
                continue
            left_s = min(saved_s, self.max_wait_s) - (now - since)
            wait_s = self._wait_s(option, job, size, now, num_before)
            if wait_s is None or wait_s > left_s:
                continue
            if find_cost(option, job, size, now=now + wait_s, wait_s=wait_s).total_s < cost_s:
                return Waiting(load.worker, now + (left_s if load.num_free <= 0 else wait_s))
        return None

    def _wait_s(self, option: Option, job: Job, size: Size, now: float, num_before: int) -> float | None:
        """Until a worker without a slot has one, or one with too many prompts has read them; None if it is neither."""
        load = option.load
        if load.num_free <= 0:
            return load.release_s(num_before + 1)
        backlog_s = load.backlog_s(now, is_latency=job.is_latency)
        if backlog_s <= self.max_backlog_s or not has_room(option, job, size):
            return None
        return backlog_s - self.max_backlog_s / 2


def _place(option: Option, job: Job, size: Size, decision: Decision, reason: str) -> Placement:
    prefix = job.prefixes[size.ends.index(option.num_held)].hash if option.num_held else ""
    return Placement(option.load.worker, decision, reason, option.num_held, prefix)


def _rate(
    option: Option, job: Job, size: Size, session_worker: str | None, *, now: float, throughput_share: float
) -> float:
    share = SESSION_SHARE if option.load.worker == session_worker else 0.0
    return find_cost(option, job, size, now=now, throughput_share=throughput_share).total_s * (1.0 - share)


def _find_reserved(options: list[Option], size: Size) -> str | None:
    """The worker that will soonest have enough memory, among those that have a slot."""
    cramped = [each.load for each in options if each.load.num_free > 0 and not _has_memory(each, size)]
    return min(cramped, key=lambda load: load.num_resident).worker if cramped else None


def _explain(
    option: Option, job: Job, size: Size, held: Mapping[str, int], session_worker: str | None
) -> tuple[Decision, str]:
    """Name the reason that tells most."""
    load, most = option.load, max(held.values(), default=0)
    num_members, num_done = load.num_members(job.standing.group), len(job.generation.output_ids)
    if num_done:
        return "continued", f"it goes on after {num_done} tokens of an earlier attempt"
    if num_members:
        return "group", f"{num_members} of its node group are there"
    if most and option.num_held == most:
        return "holder", f"about {most} of the {size.num_prompt} tokens of its prompt are there"
    if most:
        return "replica", f"workers that have about {most} tokens of its prompt are full or have too much to do"
    if load.worker == session_worker:
        return "session", "its session ran there last"
    return "least_harm", f"it costs least there, beside {len(load)} others"
