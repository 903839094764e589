"""All that a dispatcher knows and decides: plain methods, no I/O; time comes in as an argument (monotonic seconds)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import count

from parrot_mq.coordinator.config import CoordinatorConfig
from parrot_mq.coordinator.dispatch.backlog import Backlog
from parrot_mq.coordinator.dispatch.batches import Batch, Placed, Returned, name_shared
from parrot_mq.coordinator.dispatch.demand import make_demand
from parrot_mq.coordinator.dispatch.fair_queue import FairQueue
from parrot_mq.coordinator.dispatch.job import Job, Size, SizeModel, measure, name_prefixes
from parrot_mq.coordinator.dispatch.ledger import Running, Transcript, WorkerLedger
from parrot_mq.coordinator.dispatch.load import WorkerLoad
from parrot_mq.coordinator.dispatch.needs import PrefixNeeds
from parrot_mq.coordinator.dispatch.placement import Full, Placement, Placer, Waiting
from parrot_mq.coordinator.dispatch.places import SessionPlaces
from parrot_mq.coordinator.dispatch.prefill_ahead import Beginning, PrefillPlanner
from parrot_mq.coordinator.dispatch.residents import Residents
from parrot_mq.coordinator.protocol import Expect
from parrot_mq.coordinator.sessions.ready import ReadyGeneration
from parrot_mq.messages import ModelDemand, Usage, WorkerStatus
from parrot_mq.program import Standing
from parrot_mq.types import Objective

__all__ = ["DispatchState"]

SHARE_STEP = 0.02
"""What one job counts in the share of throughput work: about the last 50 count."""

_NO_OBJECTIVE = Standing(objective=Objective(kind="throughput"))


@dataclass(slots=True)
class _Round:
    """What happens while jobs are assigned.

    Attributes:
        closed: Workers whose room is left for a job that needs more of it.
        num_waiting: By worker, jobs that wait for it.
        wake_at: When the first of them should wait no longer, or a worker can read more; None if that is not known.
    """

    batches: dict[str, list[Placed]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    num_waiting: Counter[str] = field(default_factory=Counter)
    wake_at: float | None = None

    def wake(self, at: float | None) -> None:
        """The next round is not later than this."""
        if at is not None:
            self.wake_at = at if self.wake_at is None else min(at, self.wake_at)


class DispatchState:
    """The work of one model: what is expected, queued, and at workers.

    A key is in one of three places: expected, queued, or at a worker.

    Attributes:
        workers: By name.
        wake_at: When to assign again even if nothing happens; None if there is no such time.
    """

    def __init__(self, config: CoordinatorConfig) -> None:
        uses = config.mechanisms
        self._config = config
        self._queue = FairQueue(
            config.tenants.policy,
            max_wait_s=config.max_wait_s,
            is_fair=uses.fairness,
            is_grouping=uses.prefix_groups,
        )
        self._placer = Placer(
            max_wait_s=config.max_holder_wait_s,
            max_backlog_s=config.max_backlog_s if uses.pacing else math.inf,
            uses_affinity=uses.affinity,
            uses_costs=uses.costs,
        )
        self._needs = PrefixNeeds()
        self._residents = Residents()
        self._backlog = Backlog(self._residents.is_held)
        self._sizes = SizeModel()
        self._places = SessionPlaces(keep_s=config.session_keep_s, max_lead_s=config.session_max_lead_s)
        self._prefills = PrefillPlanner(min_characters=config.min_prefill_chars, max_pending=config.max_prefills)
        self._numbers = count()
        self._waiters: list[Job] = []  # they wait for a worker that has their prefix, until the next round
        self._holders: dict[str, WorkerLedger] = {}  # by key
        self._throughput_share = 0.0  # of the jobs that were assigned of late
        self.workers: dict[str, WorkerLedger] = {}
        self.wake_at: float | None = None

    # -- what is seen ------------------------------------------------------------------------------------------------

    @property
    def num_ready(self) -> int:
        """Jobs that wait for a worker."""
        return len(self._queue) + len(self._waiters)

    @property
    def num_urgent(self) -> int:
        """Of these, urgent ones."""
        return self._queue.num_urgent + sum(job.is_urgent for job in self._waiters)

    @property
    def num_running(self) -> int:
        """Jobs that a worker has."""
        return len(self._holders)

    @property
    def num_expected(self) -> int:
        """Generations that are not ready."""
        return len(self._prefills)

    def is_running(self, key: str) -> bool:
        """Whether a worker has a job."""
        return key in self._holders

    def most_needed(self, num_wanted: int) -> tuple[str, ...]:
        """The prefixes (by hash) that most unfinished generations need."""
        return self._needs.most_needed(num_wanted)

    def demand(self, model: str, *, since: float, now: float) -> ModelDemand:
        """What there is to do, with `since` as the time when this began (seconds since 1970)."""
        return make_demand(model, self._backlog, self._sizes, self.workers.values(), since=since, now=now)

    # -- work --------------------------------------------------------------------------------------------------------

    def expect(self, expect: Expect, now: float) -> None:
        """A generation is not ready, but the beginning of its prompt is known."""
        if expect.key in self._holders or expect.key in self._queue:
            return
        self._needs.set(expect.key, expect.prefixes)
        self._places.open(_session_of(expect.key), expect.key, now)
        self._prefills.expect(expect)

    def enqueue(self, generation: ReadyGeneration, *, now: float, expires_at: float) -> None:
        """A generation is ready. One that a worker runs already, for an earlier coordinator, stays there."""
        key = generation.key
        if key in self._holders or key in self._queue or any(job.key == key for job in self._waiters):
            return
        self._prefills.forget(key)
        self._needs.set(key, generation.prefix_hashes)
        place = self._places.open(_session_of(key), key, now)
        job = Job(
            generation=generation,
            prefixes=name_prefixes(generation.salt, generation.prefix_hashes),
            ends=measure(generation.segments),
            standing=self._judged(generation.standing),
            arrived_at=now,
            expires_at=expires_at,
            place=place if self._config.mechanisms.objectives else now,
            number=next(self._numbers),
        )
        self._backlog.add(
            job,
            characters_per_token=self._sizes.characters_per_token,
            output_share=self._sizes.output_share,
            now=now,
        )
        for ledger in self.workers.values():
            if (transcript := ledger.adopted.pop(key, None)) is not None:
                self._adopt(ledger, job, transcript, now)
                return
        self._queue.add(job)

    def judge(self, standings: Iterable[tuple[str, Standing]]) -> None:
        """Something else is wanted of generations, wherever they are; unknown ones are ignored."""
        for key, standing in standings:
            judged = self._judged(standing)
            self._backlog.judge(key, judged)
            if (ledger := self._holders.get(key)) is not None:
                ledger.running[key].job.standing = judged
                ledger.load.judge(key, judged)
            else:
                self._requeue_waiter(key)
                self._queue.judge(key, judged)
                self._prefills.judge(key, standing)

    def finish(
        self, keys: Iterable[str], *, producer: str = "", usage: Usage | None = None, now: float
    ) -> dict[str, list[str]]:
        """Outputs are set, by whom ever, or nobody wants them any more.

        Returns:
            By worker, what it should stop.
        """
        unwanted: dict[str, list[str]] = {}
        for key in keys:
            self._requeue_waiter(key)
            self._queue.remove(key)
            self._forget(key, now)
            self._backlog.end(key, usage)
            if (released := self._release(key, is_finished=True)) is not None:
                ledger, running = released
                self._settle(ledger, running, usage if ledger.worker == producer else None)
                if ledger.worker != producer:
                    unwanted.setdefault(ledger.worker, []).append(key)
        return unwanted

    def take_back(self, worker: str, keys: Iterable[str], *, has_started: bool, now: float) -> list[Returned]:
        """Queue again what did not finish at a worker, or give it up after too many attempts.

        An attempt counts unless the worker never had it, or hands it over because it drains.
        """
        ledger = self.workers.get(worker)
        if ledger is None:
            return []
        ledger.is_suspended = True
        is_counted = has_started and ledger.status.state != "draining"
        returned = []
        for key in list(keys):
            if self._holders.get(key) is not ledger or (released := self._release(key)) is None:
                continue
            running = released[1]
            job, attempt = running.job, running.job.generation.attempt
            self._queue.charge(job, len(running.transcript.output_ids) - running.num_charged)
            job.num_lost += is_counted
            is_queued = job.num_lost < self._config.max_attempts
            if is_queued:
                self._continue(job, running.transcript, has_started=has_started)
                if job.num_lost > 1:
                    job.place = now  # it may be its own fault: others go first
                self._queue.add(job)
                self._backlog.queue_again(job, now)
            else:
                self._forget(key, now)
                self._backlog.end(key)
            returned.append(Returned(job, worker, attempt, is_queued))
        ledger.update_room()
        return returned

    def _continue(self, job: Job, transcript: Transcript, *, has_started: bool) -> None:
        """The next attempt goes on after what is known of this one."""
        if has_started:
            job.generation = job.generation.next_attempt()
        if self._config.mechanisms.continuation:
            job.generation = replace(job.generation, output_ids=tuple(transcript.output_ids))

    def _forget(self, key: str, now: float) -> None:
        self._needs.remove(key)
        self._prefills.forget(key)
        self._places.close(_session_of(key), key, now)

    def _settle(self, ledger: WorkerLedger, running: Running, usage: Usage | None) -> None:
        """Charge what a job has cost in fact, and learn from it."""
        job = running.job
        self._residents.hold(ledger.worker, job.prefixes, running.size.ends)
        if usage is None:
            spent = running.num_charged - running.size.num_output + len(running.transcript.output_ids)
        else:
            spent = float(usage.num_prompt_tokens - usage.num_shared_tokens + usage.num_output_tokens)
            self._sizes.learn_output(max_tokens=job.generation.sampling.max_tokens, num_tokens=usage.num_output_tokens)
        self._queue.charge(job, spent - running.num_charged)

    def _judged(self, standing: Standing) -> Standing:
        """What is wanted, if anybody is to care."""
        uses = self._config.mechanisms
        if uses.objectives:
            return standing
        return replace(_NO_OBJECTIVE, group=standing.group, group_size=standing.group_size)

    # -- workers -----------------------------------------------------------------------------------------------------

    def report(self, status: WorkerStatus, now: float) -> tuple[str, ...]:
        """A worker was heard of.

        Returns:
            Keys of what it should have and does not know of: something was lost on the way.
        """
        ledger = self.workers.get(status.worker)
        if ledger is None:
            ledger = self.workers[status.worker] = WorkerLedger(status, WorkerLoad(status.worker))
            # Only now: of a worker that is known, what we have not assigned is done, and it has not noticed yet.
            ledger.adopted.update((key, Transcript()) for key in status.running if key not in self._holders)
        self._note_state(ledger, status)
        num_evicted = ledger.hear(status)
        self._residents.set_capacity(ledger.worker, ledger.capacity)
        self._residents.evict(ledger.worker, num_evicted, ledger.pinned or ())
        self._note_prompts(ledger, status)
        self._note_prefilled(ledger, status)
        self._adopt_running(ledger, now)
        return ledger.find_lost(sent_before=now - self._config.lease_s)

    def lose(self, worker: str, now: float) -> list[Returned]:
        """A worker's lease has ended: what it had goes to others."""
        ledger = self.workers.get(worker)
        if ledger is None:
            return []
        returned = self.take_back(worker, tuple(ledger.running), has_started=True, now=now)
        self._prefills.lose(worker)
        self._residents.forget(worker)
        del self.workers[worker]
        return returned

    def _note_state(self, ledger: WorkerLedger, status: WorkerStatus) -> None:
        """One that loads begins anew; one that drains computes nothing ahead any more."""
        if status.state != "ready":
            self._prefills.lose(ledger.worker)
        if status.state == "loading":
            self._residents.forget(ledger.worker)
            ledger.pinned = None

    def _note_prompts(self, ledger: WorkerLedger, status: WorkerStatus) -> None:
        """Learn how long prompts are that were read."""
        for progress in status.progress:
            running = ledger.running.get(progress.key)
            if running is not None and progress.num_prompt_tokens and progress.begin == 0 and running.job.ends:
                self._sizes.learn_prompt(num_characters=running.job.ends[-1], num_tokens=progress.num_prompt_tokens)

    def _note_prefilled(self, ledger: WorkerLedger, status: WorkerStatus) -> None:
        for key in status.prefilled:
            if (beginning := self._prefills.compute(key, ledger.worker)) is not None:
                self._residents.hold(ledger.worker, beginning.prefixes, self._sizes.tokens(beginning.ends))

    def _adopt_running(self, ledger: WorkerLedger, now: float) -> None:
        """Leave with a worker what it runs already."""
        for key in ledger.status.running:
            self._requeue_waiter(key)
            if (job := self._queue.remove(key)) is not None:
                self._adopt(ledger, job, ledger.adopted.pop(key, Transcript()), now)
        for key in ledger.adopted.keys() - set(ledger.status.running):
            del ledger.adopted[key]
        ledger.update_room()

    def _adopt(self, ledger: WorkerLedger, job: Job, transcript: Transcript, now: float) -> None:
        if transcript.attempt:
            job.generation = replace(job.generation, attempt=max(transcript.attempt, job.generation.attempt))
            job.num_lost = max(job.num_lost, transcript.attempt - 1)
        size = self._sizes.size(job)
        self._queue.start(job, num_tokens=size.num_output)
        self._hold(ledger, job, size, transcript, num_held=size.num_prompt, num_charged=size.num_output, now=now)

    def _hold(
        self,
        ledger: WorkerLedger,
        job: Job,
        size: Size,
        transcript: Transcript,
        *,
        num_held: int,
        num_charged: float,
        now: float,
    ) -> None:
        """A job is at a worker."""
        job.waits_since = None
        self._backlog.start(job.key)
        ledger.hold(Running(job, size, num_charged, now, transcript), num_held=num_held)
        self._holders[job.key] = ledger
        self._residents.hold(ledger.worker, job.prefixes, size.ends)
        self._places.run(job.session, ledger.worker)
        self._prefills.begin(job.key)

    def _release(self, key: str, *, is_finished: bool = False) -> tuple[WorkerLedger, Running] | None:
        """Free the slot of a job; None if no worker has it."""
        ledger = self._holders.pop(key, None)
        self._prefills.end(key, is_finished=is_finished)
        running = ledger.release(key) if ledger is not None else None
        if ledger is None or running is None:
            return None
        self._queue.end(running.job)
        return ledger, running

    # -- batches -----------------------------------------------------------------------------------------------------

    def assign(self, now: float) -> list[Batch]:
        """Hand out what is ready, as far as there is room."""
        this = _Round()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            self._queue.add(waiter)
        self._queue.begin_round(now)
        while self._has_room(this) and (job := self._queue.peek()) is not None:
            self._place(job, this, now)
        self.wake_at = this.wake_at
        return [
            Batch(worker, name_shared(placed[begin : begin + self._config.max_batch]))
            for worker, placed in this.batches.items()
            for begin in range(0, len(placed), self._config.max_batch)
        ]

    def _has_room(self, this: _Round) -> bool:
        return any(each.load.num_free > 0 for each in self.workers.values() if each.worker not in this.closed)

    def _place(self, job: Job, this: _Round, now: float) -> None:
        """Send a job to a worker, or let it wait."""
        size = self._sizes.size(job)
        loads = [each.load for each in self.workers.values() if each.is_open and each.worker not in this.closed]
        found = self._placer.find(
            job,
            size,
            loads,
            self._residents.find(job.prefixes, size.ends),
            now=now,
            session_worker=self._places.worker(job.session),
            num_waiting=this.num_waiting,
            throughput_share=self._throughput_share,
        )
        match found:
            case Placement():
                self._send(job, size, found, this, now)
            case Waiting(worker=worker, until=until):
                self._let_wait(job, worker, until, this, now)
            case Full(reserved=reserved, until=until_read):
                self._queue.skip(job)
                this.wake(until_read)
                if reserved is not None:
                    this.closed.add(reserved)

    def _send(self, job: Job, size: Size, placement: Placement, this: _Round, now: float) -> None:
        ledger = self.workers[placement.worker]
        self._throughput_share += SHARE_STEP * ((not job.is_latency) - self._throughput_share)
        num_charged = float(size.num_prompt - placement.num_held + size.num_output)
        self._queue.take(job, num_tokens=num_charged)
        transcript = Transcript(job.generation.attempt, list(job.generation.output_ids))
        self._hold(ledger, job, size, transcript, num_held=placement.num_held, num_charged=num_charged, now=now)
        ledger.load.turn = next(self._numbers)
        this.batches.setdefault(placement.worker, []).append(Placed(job, placement))

    def _let_wait(self, job: Job, worker: str, until: float, this: _Round, now: float) -> None:
        """Set a job aside until the next round; others may go meanwhile."""
        if job.waits_since is None:
            job.waits_since = now
        this.num_waiting[worker] += 1
        this.wake(until)
        self._queue.remove(job.key)
        self._waiters.append(job)

    def _requeue_waiter(self, key: str) -> None:
        """Put one that was set aside back into the queue, if it is one."""
        for index, job in enumerate(self._waiters):
            if job.key == key:
                self._queue.add(self._waiters.pop(index))
                return

    # -- prefill ahead -----------------------------------------------------------------------------------------------

    def plan_prefills(self) -> tuple[list[Beginning], dict[str, list[Beginning]]]:
        """Plan what is computed ahead.

        Returns:
            What was planned, and the whole plans of the workers whose plans have changed.
        """
        if not self._config.mechanisms.prefill_ahead:
            return [], {}
        return self._prefills.plan(self._choose_prefiller), self._prefills.pop_changed()

    def _choose_prefiller(self, beginning: Beginning) -> str | None:
        """The worker where a generation will most likely run, if it has room now.

        That is who has most of its prompt, else where its session runs, else who has least to do.
        """
        ends = self._sizes.tokens(beginning.ends)
        held = self._residents.find(beginning.prefixes, ends)
        session_worker = self._places.worker(_session_of(beginning.key))
        able = [each for each in self.workers.values() if each.is_open and each.capacity]
        if not able:
            return None
        best = min(
            able,
            key=lambda each: (-held.get(each.worker, 0), each.worker != session_worker, each.load.num_read),
        )
        num_new = ends[-1] - held.get(best.worker, 0)
        has_room = best.num_free > 0 and best.load.num_resident + num_new <= best.capacity
        return best.worker if has_room else None

    # -- integrity ---------------------------------------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Assert that every structure tells the same, and each key is in one place."""
        self._queue.check_integrity()
        self._residents.check_integrity()
        self._backlog.check_integrity()
        self._places.check_integrity()
        self._prefills.check_integrity()
        queued = {job.key for job in self._queue}
        waiting = {job.key for job in self._waiters}
        assert len(waiting) == len(self._waiters)
        assert not queued & waiting
        assert not (queued | waiting) & self._holders.keys()
        assert queued | waiting <= self._backlog.keys_ready, "those that are late may be more"
        assert self._backlog.keys_running == self._holders.keys()
        running = {key: ledger for ledger in self.workers.values() for key in ledger.running}
        assert running == self._holders, running.keys() ^ self._holders.keys()
        for name, ledger in self.workers.items():
            assert name == ledger.worker
            ledger.check_integrity()


def _session_of(key: str) -> str:
    """The first two parts of `tenant.session.variable`; names have no dots."""
    return key.rpartition(".")[0]
