"""Ready generations of one tenant in the order in which they go: pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterator

from parrot_mq.coordinator.dispatch.job import Job
from parrot_mq.program import Standing

__all__ = ["Agenda", "Lane", "TenantQueue", "due"]

DEADLINE_SLACK_S = 30.0
"""What has to be there at some time goes before what came later than so long before it."""

LATENCY_LEAD_S = 10.0
"""What somebody reads as it comes goes before batches of work that came so much earlier, urgent or not."""

_Rank = tuple[float, ...]


class Agenda:
    """Jobs by a rank that is found when they are added. Adding and removing cost O(log n), finding the first O(1)."""

    def __init__(self, rank: Callable[[Job], _Rank]) -> None:
        self._rank = rank
        self._entries: dict[str, tuple[_Rank, str]] = {}
        self._heap: list[tuple[_Rank, str]] = []  # with entries that were removed; at most as many, and 64

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, job: Job) -> None:
        """Put a job in its place."""
        entry = self._entries[job.key] = (self._rank(job), job.key)
        heapq.heappush(self._heap, entry)

    def remove(self, key: str) -> None:
        """Take a job out, if it is there."""
        if self._entries.pop(key, None) is None:
            return
        if len(self._heap) > 2 * len(self._entries) + 64:
            self._heap = list(self._entries.values())
            heapq.heapify(self._heap)

    def first(self) -> tuple[_Rank, str] | None:
        """The smallest rank, and whose it is."""
        heap = self._heap
        while heap and self._entries.get(heap[0][1]) is not heap[0]:
            heapq.heappop(heap)
        return heap[0] if heap else None


class Lane:
    """Jobs of one class: the first one leads, those that belong to it follow.

    In each round the job that is due first leads. Then follow the members of its node group, then those that share
    most of its prompt, and then the next one leads. So what belongs together goes together as far as there is room,
    and what is due first is in every round, however many share another prefix.

    Every operation costs O(segments of a prompt + log n).

    Args:
        is_grouping: Whether anything follows at all.

    Source: Parrot (OSDI'24) section 5.4, Algorithm 1, with hashes over content at every placeholder boundary.
    """

    def __init__(self, *, is_grouping: bool = True) -> None:
        self._is_grouping = is_grouping
        self._jobs: dict[str, Job] = {}
        self._order = Agenda(_rank)
        self._companies: dict[Hashable, dict[str, None]] = {}  # keys of the jobs by each prefix and node group
        self._leader: Job | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, key: str) -> bool:
        return key in self._jobs

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def add(self, job: Job) -> None:
        """Put in a job that is not here."""
        self._jobs[job.key] = job
        self._order.add(job)
        for company in self._companies_of(job):
            self._companies.setdefault(company, {})[job.key] = None

    def remove(self, key: str) -> Job | None:
        """Take one out; None if it is not here."""
        job = self._jobs.pop(key, None)
        if job is None:
            return None
        self._order.remove(key)
        for company in self._companies_of(job):
            members = self._companies[company]
            del members[key]
            if not members:
                del self._companies[company]
        return job

    def begin_round(self) -> None:
        """Whoever is due first leads next."""
        self._leader = None

    def peek(self) -> Job | None:
        """The next job, which stays."""
        return self._follower() or self._first()

    def take(self, job: Job) -> None:
        """Take out what `peek` returned."""
        if self._follower() is not job:
            self._leader = job
        self.remove(job.key)

    def _first(self) -> Job | None:
        first = self._order.first()
        return self._jobs[first[1]] if first is not None else None

    def _follower(self) -> Job | None:
        if self._leader is None:
            return None
        for company in self._companies_of(self._leader):
            if members := self._companies.get(company):
                return self._jobs[next(iter(members))]
        return None

    def _companies_of(self, job: Job) -> Iterator[Hashable]:
        """What it belongs to: its node group, then its prefixes, the longest first."""
        if not self._is_grouping:
            return
        if job.standing.group:
            yield job.standing.group
        yield from reversed(job.prefixes)

    def check_integrity(self) -> None:
        """Assert that all indices tell the same."""
        listed = {(company, key) for company, keys in self._companies.items() for key in keys}
        queued = {(company, job.key) for job in self for company in self._companies_of(job)}
        assert listed == queued, listed ^ queued
        assert all(self._companies.values())
        assert len(self._order) == len(self._jobs)
        first = self._order.first()
        assert (first is None) == (not self._jobs)
        assert first is None or first[0] == min(map(_rank, self))


class TenantQueue:
    """The jobs of one tenant: urgent ones first, and nothing waits for ever.

    What is not urgent becomes so after `max_wait_s`, or when its deadline is near. Among urgent ones the order is
    that of arrival, so what came later can only overtake by what its session came earlier, and that is bounded.

    Args:
        max_wait_s: How long urgent jobs may go before one that is not.
        is_grouping: As for a `Lane`.
    """

    def __init__(self, *, max_wait_s: float, is_grouping: bool = True) -> None:
        self._max_wait_s = max_wait_s
        self._urgent = Lane(is_grouping=is_grouping)
        self._others = Lane(is_grouping=is_grouping)
        self._ageing = Agenda(self._ages_at)  # the others
        self._expiring = Agenda(lambda job: (job.expires_at,))  # all

    def __len__(self) -> int:
        return len(self._urgent) + len(self._others)

    def __contains__(self, key: str) -> bool:
        return key in self._urgent or key in self._others

    def __iter__(self) -> Iterator[Job]:
        yield from self._urgent
        yield from self._others

    @property
    def num_urgent(self) -> int:
        """How many jobs are urgent."""
        return len(self._urgent)

    def add(self, job: Job) -> None:
        """Put in a job that is not here."""
        self._expiring.add(job)
        if job.is_urgent:
            self._urgent.add(job)
        else:
            self._others.add(job)
            self._ageing.add(job)

    def remove(self, key: str) -> Job | None:
        """Take one out; None if it is not here."""
        self._expiring.remove(key)
        self._ageing.remove(key)
        return self._urgent.remove(key) or self._others.remove(key)

    def judge(self, key: str, standing: Standing) -> None:
        """Something else is wanted of a job, if it is here; it keeps its time of arrival."""
        job = self.remove(key)
        if job is not None:
            job.standing = standing
            self.add(job)

    def begin_round(self, now: float) -> list[Job]:
        """Let time pass. Returns the jobs that may not be started any more, which are not here any more."""
        self._urgent.begin_round()
        self._others.begin_round()
        late = [self._pop(key) for key in _pop_due(self._expiring, now)]
        for key in _pop_due(self._ageing, now):
            job = self._pop(key)
            job.has_aged = True
            self.add(job)
        return late

    def peek(self, *, only_urgent: bool = False) -> Job | None:
        """The next job, which stays."""
        return self._urgent.peek() or (None if only_urgent else self._others.peek())

    def take(self, job: Job) -> None:
        """Take out what `peek` returned."""
        (self._urgent if job.key in self._urgent else self._others).take(job)
        self._expiring.remove(job.key)
        self._ageing.remove(job.key)

    def _pop(self, key: str) -> Job:
        job = self.remove(key)
        assert job is not None, f"{key} is on an agenda but not queued"
        return job

    def _ages_at(self, job: Job) -> _Rank:
        return (min(job.arrived_at + self._max_wait_s, job.expires_at - DEADLINE_SLACK_S),)

    def check_integrity(self) -> None:
        """Assert that each job is where it belongs, and on the agendas that are for it."""
        self._urgent.check_integrity()
        self._others.check_integrity()
        assert not {job.key for job in self._urgent} & {job.key for job in self._others}
        assert all(job.is_urgent for job in self._urgent)
        assert not any(job.is_urgent for job in self._others)
        assert len(self._expiring) == len(self)
        assert len(self._ageing) == len(self._others)


def due(job: Job) -> float:
    """When a job should be started: when its session came, maybe somewhat earlier, or before it has to be there."""
    wanted_by, ttft_ms = job.expires_at, job.standing.objective.ttft_ms
    if ttft_ms is not None:
        wanted_by = min(wanted_by, job.arrived_at + ttft_ms / 1e3)
    place = job.place - LATENCY_LEAD_S if job.is_latency else job.place
    return min(place, wanted_by - DEADLINE_SLACK_S)


def _rank(job: Job) -> _Rank:
    """What is due first; of one session, what is further from its end; what came first."""
    return due(job), -job.standing.stage, job.number


def _pop_due(agenda: Agenda, now: float) -> Iterator[str]:
    """The keys whose time has come; each must be removed from the agenda before the next one is asked for."""
    while (first := agenda.first()) is not None and first[0][0] <= now:
        yield first[1]
