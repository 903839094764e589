"""The ready generations of all tenants, in the order in which they go: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from parrot_mq.coordinator.dispatch.fairness import DeficitRoundRobin
from parrot_mq.coordinator.dispatch.job import Job
from parrot_mq.coordinator.dispatch.queue import TenantQueue
from parrot_mq.coordinator.tenants import TenantPolicy
from parrot_mq.program import Standing

__all__ = ["FairQueue"]


class FairQueue:
    """The jobs of all tenants: whose turn it is says the round robin, what goes next of a tenant says its queue.

    Args:
        policy: What a tenant may use.
        max_wait_s: As for a `TenantQueue`.
        is_fair: Without it all tenants count as one.
        is_grouping: As for a `TenantQueue`.
    """

    def __init__(
        self,
        policy: Callable[[str], TenantPolicy],
        *,
        max_wait_s: float = 10.0,
        is_fair: bool = True,
        is_grouping: bool = True,
    ) -> None:
        self._policy = policy
        self._max_wait_s = max_wait_s
        self._is_fair = is_fair
        self._is_grouping = is_grouping
        self._queues: dict[str, TenantQueue] = {}  # none is empty
        self._turns = DeficitRoundRobin(lambda name: policy(name).weight)
        self._num_running: dict[str, int] = {}  # by queue
        self._skipped: set[str] = set()  # of these queues nothing goes in this round
        self._only_urgent: set[str] = set()  # of these queues only what is urgent
        self._begun: set[str] = set()  # queues for which the round has begun
        self._now = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __contains__(self, key: str) -> bool:
        queue = self._queues.get(self._queue_of(key))
        return queue is not None and key in queue

    def __iter__(self) -> Iterator[Job]:
        for queue in self._queues.values():
            yield from queue

    @property
    def num_urgent(self) -> int:
        """How many jobs are urgent."""
        return sum(queue.num_urgent for queue in self._queues.values())

    def add(self, job: Job) -> None:
        """Put in a job; one that is here already is left where it is."""
        name = self._queue_of(job.key)
        queue = self._queues.get(name)
        if queue is None:
            queue = TenantQueue(max_wait_s=self._max_wait_s, is_grouping=self._is_grouping)
            self._queues[name] = queue
        if job.key not in queue:
            queue.add(job)
            self._update_turns(job)

    def remove(self, key: str) -> Job | None:
        """Take one out; None if it is not here."""
        queue = self._queues.get(self._queue_of(key))
        job = queue.remove(key) if queue is not None else None
        if job is not None:
            self._left(job)
        return job

    def judge(self, key: str, standing: Standing) -> None:
        """Something else is wanted of a job, if it is here."""
        if (queue := self._queues.get(self._queue_of(key))) is not None:
            queue.judge(key, standing)

    # -- rounds ------------------------------------------------------------------------------------------------------

    def begin_round(self, now: float) -> None:
        """Time has passed, and everybody may go again."""
        self._now = now
        self._skipped.clear()
        self._only_urgent.clear()
        self._begun.clear()

    def peek(self) -> Job | None:
        """The job whose turn it is, which stays; None if nothing can go in this round.

        What may not be started any more is dropped on the way.
        """
        while (name := self._turns.next(self._skipped)) is not None:
            queue = self._queues[name]
            if name not in self._begun:
                self._begun.add(name)
                for late in queue.begin_round(self._now):
                    self._left(late)
                if name not in self._queues:
                    continue
            if (job := queue.peek(only_urgent=name in self._only_urgent)) is not None:
                return job
            self._skipped.add(name)
        return None

    def take(self, job: Job, *, num_tokens: float) -> None:
        """Take out what `peek` returned, and count it as at a worker, where it will cost so many tokens."""
        self.start(job, num_tokens=num_tokens)
        self._queues[self._queue_of(job.key)].take(job)
        self._left(job)

    def skip(self, job: Job) -> None:
        """Of the tenant of what `peek` returned nothing goes in this round that is not more urgent."""
        (self._skipped if job.is_urgent else self._only_urgent).add(self._queue_of(job.key))

    # -- what is spent -----------------------------------------------------------------------------------------------

    def start(self, job: Job, *, num_tokens: float) -> None:
        """A job is at a worker, where it will cost so many tokens."""
        name = self._queue_of(job.key)
        self._num_running[name] = self._num_running.get(name, 0) + 1
        self.charge(job, num_tokens)
        self._update_turns(job)

    def end(self, job: Job) -> None:
        """A job is not at a worker any more."""
        name = self._queue_of(job.key)
        self._num_running[name] -= 1
        if not self._num_running[name]:
            del self._num_running[name]
        self._update_turns(job)

    def charge(self, job: Job, num_tokens: float) -> None:
        """A job has cost so many tokens more than was charged; less if it is below 0."""
        self._turns.charge(self._queue_of(job.key), num_tokens)

    def _queue_of(self, key: str) -> str:
        """The tenant is the first part of `tenant.session.variable`; names have no dots."""
        return key.partition(".")[0] if self._is_fair else ""

    def _left(self, job: Job) -> None:
        """A job is not queued any more; it may have been the last one of its queue."""
        name = self._queue_of(job.key)
        if name in self._queues and not self._queues[name]:
            del self._queues[name]
            self._turns.deactivate(name)

    def _update_turns(self, job: Job) -> None:
        """A tenant that has work takes turns, but for one that has as much at workers as it may have."""
        name = self._queue_of(job.key)
        if self._may_start(name):
            self._turns.activate(name)
        else:
            self._turns.deactivate(name)

    def _may_start(self, name: str) -> bool:
        limit = self._policy(name).max_running if self._is_fair else 0
        return name in self._queues and (not limit or self._num_running.get(name, 0) < limit)

    def check_integrity(self) -> None:
        """Assert that every job is in the queue of its tenant, no queue is empty, and whoever may go takes turns."""
        for name, queue in self._queues.items():
            assert queue, name
            assert {self._queue_of(job.key) for job in queue} == {name}
            queue.check_integrity()
            assert (name in self._turns) is self._may_start(name), name
        assert all(num > 0 for num in self._num_running.values())
        self._turns.check_integrity()
