"""What runs at a worker, in numbers that predict how long things take there: pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TypeVar

from parrot_mq.coordinator.dispatch.job import Job, Prefix, Size
from parrot_mq.coordinator.dispatch.step_time import PRIOR, StepTimes
from parrot_mq.program import Standing

__all__ = ["WorkerLoad"]

MAX_SLOWDOWN = 2.5
"""A latency job without a target for its tokens may be slowed down so much by what is not urgent.

Source: Parrot, OSDI'24, Figure 10: 40 ms a token is what a chat bears, where an idle engine takes 16 ms.
"""

TARGET_SHARE = 0.9
"""Of the time that a token may take an engine plans with so much."""
MIN_ROWS = 16
"""Tokens of prompts that an engine reads in any step, however hurried others are."""

_Name = TypeVar("_Name", str, float)


@dataclass(slots=True)
class _Share:
    """A prefix that jobs at the worker have in common: how many of them, and its tokens after its parent."""

    num_users: int
    num_tokens: int


@dataclass(slots=True)
class _Footprint:
    """What one job takes up.

    Attributes:
        num_output: Tokens that it was expected to generate when it came.
        num_generated: Of these, tokens that are there.
        num_unread: Tokens of its prompt that have to be computed, until they are.
    """

    prefixes: tuple[Prefix, ...]
    is_latency: bool
    group: str
    tpot_s: float | None
    num_output: int
    num_unread: int
    num_generated: int = 0


@dataclass(slots=True)
class WorkerLoad:
    """The sum of the jobs at one worker. Adding and removing one cost O(segments of its prompt).

    Attributes:
        worker: Its name.
        times: How long its steps take.
        num_free: Jobs that it takes now.
        capacity: Tokens that its cache holds; 0 if that is not known.
        num_prompt: Tokens of all prompts, a shared prefix counted once.
        num_output: Tokens of all outputs, as expected at their ends.
        num_generated: Of these, tokens that are there.
        num_unread: Tokens of prompts that are still to be computed.
        num_unread_latency: Of these, tokens of latency jobs, which are read first.
        reads_until: When the prompts will be read, as expected when the last one came (monotonic seconds).
        reads_latency_until: The same of those of latency jobs.
        num_latency: Latency jobs.
        turn: When it last got something; smaller is longer ago.
    """

    worker: str
    times: StepTimes = PRIOR
    num_free: int = 0
    capacity: int = 0
    num_prompt: int = 0
    num_output: int = 0
    num_generated: int = 0
    num_unread: int = 0
    num_unread_latency: int = 0
    reads_until: float = 0.0
    reads_latency_until: float = 0.0
    num_latency: int = 0
    turn: int = 0
    _footprints: dict[str, _Footprint] = field(default_factory=dict)
    _shares: dict[Prefix, _Share] = field(default_factory=dict)
    _groups: Counter[str] = field(default_factory=Counter)
    _tpots: Counter[float] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self._footprints)

    def __contains__(self, key: str) -> bool:
        return key in self._footprints

    # -- jobs --------------------------------------------------------------------------------------------------------

    def add(self, job: Job, size: Size, *, num_held: int, now: float = 0.0) -> None:
        """A job came that is not here.

        Args:
            job: The job.
            size: How large it is.
            num_held: Tokens of its prompt that need not be computed.
            now: Monotonic seconds.
        """
        footprint = self._footprints[job.key] = _Footprint(
            prefixes=job.prefixes,
            is_latency=job.is_latency,
            group=job.standing.group,
            tpot_s=_tpot_s(job.standing),
            num_output=size.num_output,
            num_unread=max(1, size.num_prompt - num_held),
        )
        unread_s = footprint.num_unread * self.prefill_s
        self.reads_until = max(now, self.reads_until) + unread_s
        if footprint.is_latency:
            self.reads_latency_until = max(now, self.reads_latency_until) + unread_s
        begin = 0
        for prefix, end in zip(job.prefixes, size.ends, strict=True):
            share = self._shares.get(prefix)
            if share is None:
                share = self._shares[prefix] = _Share(0, end - begin)
                self.num_prompt += share.num_tokens
            share.num_users += 1
            begin = end
        self._count(footprint, 1)

    def remove(self, key: str) -> None:
        """A job is not here any more; one that is not here is ignored."""
        footprint = self._footprints.pop(key, None)
        if footprint is None:
            return
        for prefix in footprint.prefixes:
            share = self._shares[prefix]
            share.num_users -= 1
            if not share.num_users:
                self.num_prompt -= share.num_tokens
                del self._shares[prefix]
        self._count(footprint, -1)

    def progress(self, key: str, *, num_generated: int) -> None:
        """A job that is here has read its prompt, and generated so many tokens since it came."""
        footprint = self._footprints.get(key)
        if footprint is None:
            return
        self._count(footprint, -1)
        footprint.num_unread = 0
        footprint.num_generated = min(num_generated, footprint.num_output)
        self._count(footprint, 1)

    def judge(self, key: str, standing: Standing) -> None:
        """Something else is wanted of a job; one that is not here is ignored."""
        footprint = self._footprints.get(key)
        if footprint is not None:
            self._count(footprint, -1)
            footprint.is_latency = standing.objective.kind == "latency"
            footprint.group = standing.group
            footprint.tpot_s = _tpot_s(standing)
            self._count(footprint, 1)

    def _count(self, footprint: _Footprint, sign: int) -> None:
        self.num_output += sign * footprint.num_output
        self.num_generated += sign * footprint.num_generated
        self.num_unread += sign * footprint.num_unread
        self.num_unread_latency += sign * footprint.num_unread * footprint.is_latency
        self.num_latency += sign * footprint.is_latency
        if footprint.group:
            _add(self._groups, footprint.group, sign)
        if footprint.tpot_s is not None:
            _add(self._tpots, footprint.tpot_s, sign)

    # -- what follows from it ----------------------------------------------------------------------------------------

    @property
    def num_throughput(self) -> int:
        """Jobs that only have to be finished."""
        return len(self._footprints) - self.num_latency

    @property
    def num_resident(self) -> int:
        """Tokens that the jobs will take up at their ends."""
        return self.num_prompt + self.num_output

    @property
    def num_read(self) -> float:
        """Tokens that attention reads in a step: the prompts, and the outputs when half of what is left is there."""
        return self.num_prompt + (self.num_output + self.num_generated) / 2

    @property
    def prefill_s(self) -> float:
        """Seconds in which it reads a token of a prompt: much longer while somebody reads along who is in a hurry.

        Then a step takes no longer than its target, and what decoding leaves of that is for prompts.
        """
        target_s = self.tpot_target_s
        if target_s is None:
            return self.times.prefill_s
        step_s = self.times.step_s(self.num_read)
        num_rows = max(MIN_ROWS, (TARGET_SHARE * target_s - step_s) / self.times.prefill_s)
        return self.times.prefill_s + step_s / num_rows

    def backlog_s(self, now: float, *, is_latency: bool = False) -> float:
        """Seconds until the prompts are read that are read before the next one, which may be that of a latency job.

        By the clock, unless heartbeats tell of less.
        """
        until, num_unread = self.reads_until, self.num_unread
        if is_latency:
            until, num_unread = self.reads_latency_until, self.num_unread_latency
        return max(0.0, min(until - now, num_unread * self.prefill_s))

    @property
    def mean_left(self) -> float:
        """Tokens that a job has still to generate, in the mean."""
        return (self.num_output - self.num_generated) / len(self._footprints) if self._footprints else 0.0

    @property
    def tpot_target_s(self) -> float | None:
        """The tightest target that a job here names, if any does."""
        return min(self._tpots, default=None)

    def num_members(self, group: str) -> int:
        """Jobs of a node group."""
        return self._groups[group] if group else 0

    def num_in_use(self, job: Job, size: Size) -> int:
        """Tokens of a prompt that the jobs here have too: reading them costs nothing more."""
        num = 0
        for prefix, end in zip(job.prefixes, size.ends, strict=True):
            if prefix not in self._shares:
                break
            num = end
        return num

    def max_read(self, tpot_s: float | None = None) -> float:
        """Tokens that steps may read so that latency jobs bear it: those here, and one with the target `tpot_s`."""
        targets = [each for each in (tpot_s, self.tpot_target_s) if each is not None]
        return self.times.max_read(min(targets, default=MAX_SLOWDOWN * self.times.base_s))

    def release_s(self, num: int) -> float:
        """Seconds until so many of the jobs here have ended, as expected. O(jobs log jobs)."""
        left = sorted(each.num_output - each.num_generated for each in self._footprints.values())
        if not left:
            return 0.0
        unread_s = self.num_unread * self.prefill_s
        return unread_s + left[min(num, len(left)) - 1] * self.times.step_s(self.num_read)

    def check_integrity(self) -> None:
        """Assert that all sums are those of the jobs."""
        footprints = self._footprints.values()
        assert self.num_output == sum(each.num_output for each in footprints)
        assert self.num_generated == sum(each.num_generated for each in footprints)
        assert self.num_unread == sum(each.num_unread for each in footprints)
        assert self.num_unread_latency == sum(each.num_unread for each in footprints if each.is_latency)
        assert self.num_latency == sum(each.is_latency for each in footprints)
        assert self._groups == Counter(each.group for each in footprints if each.group)
        assert self._tpots == Counter(each.tpot_s for each in footprints if each.tpot_s is not None)
        users = Counter(prefix for each in footprints for prefix in each.prefixes)
        assert {prefix: share.num_users for prefix, share in self._shares.items()} == users
        assert self.num_prompt == sum(share.num_tokens for share in self._shares.values())


def _tpot_s(standing: Standing) -> float | None:
    return None if standing.objective.tpot_ms is None else standing.objective.tpot_ms / 1e3


def _add(counter: Counter[_Name], name: _Name, num: int) -> None:
    counter[name] += num
    if not counter[name]:
        del counter[name]
