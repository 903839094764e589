"""One actor for each model: ready generations and workers with room become prefix-grouped batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from parrot_mq.actors import Actor, ActorRef, RemoteRef
from parrot_mq.coordinator.config import CoordinatorConfig
from parrot_mq.coordinator.dispatch.batches import Batch, Placed, Returned, to_assign, to_prefills
from parrot_mq.coordinator.dispatch.dispatch_state import DispatchState
from parrot_mq.coordinator.dispatch.job import Job
from parrot_mq.coordinator.dispatch.ledger import WorkerLedger
from parrot_mq.coordinator.dispatch.prefill_ahead import Beginning
from parrot_mq.coordinator.protocol import (
    CameBack,
    Dispatch,
    Done,
    Enqueue,
    Expect,
    Expire,
    GenerationFailed,
    GiveBack,
    Judge,
    LookUp,
    WorkerLost,
    WorkerReport,
    tell_self,
)
from parrot_mq.coordinator.sessions.ready import ReadyGeneration
from parrot_mq.coordinator.statistics import DispatcherStatistics
from parrot_mq.coordinator.stories.events import Events
from parrot_mq.errors import ActorStopped, AskTimeout, GenerationAborted, ParrotError
from parrot_mq.messages import (
    Assigned,
    CancelGenerations,
    ModelDemand,
    PinPrefixes,
    TaskAddress,
    WorkerStatus,
    worker_address,
)
from parrot_mq.types import SessionId, TaskId, TenantId, VariableId, fresh_id

__all__ = ["DispatcherActor"]


class DispatcherActor(Actor):
    """Hands out the work of one model. What it decides, and why, is in `DispatchState`; here it is told and heard.

    The ledger is ours: a slot is taken when a generation is assigned, and free when its output is set. A worker's own
    list of what it runs, in its heartbeat, corrects the ledger.

    Delivery: a generation may be assigned more than once; its output is written once.
    """

    def __init__(self, model: str, *, config: CoordinatorConfig, events: Events) -> None:
        self._model = model
        self._config = config
        self._events = events
        self._sessions: dict[str, ActorRef] = {}
        self._overdue: set[str] = set()
        """At workers when they were to expire."""
        self._refs: dict[str, RemoteRef] = {}
        self._since = 0.0
        self._is_settled = False
        self._will_dispatch = False
        self._alarm: asyncio.Task[object] | None = None
        self._num_batches = self._num_assigned = self._num_returned = self._num_given_up = 0
        self._num_continued = self._num_prefills = 0
        self.state = DispatchState(config)
        """What it knows."""

    def statistics(self) -> DispatcherStatistics:
        """What it has to do, and has done since it began."""
        return DispatcherStatistics(
            num_ready=self.state.num_ready,
            num_urgent=self.state.num_urgent,
            num_expected=self.state.num_expected,
            num_running=self.state.num_running,
            num_batches=self._num_batches,
            num_assigned=self._num_assigned,
            num_returned=self._num_returned,
            num_continued=self._num_continued,
            num_given_up=self._num_given_up,
            num_prefills=self._num_prefills,
        )

    def demand(self) -> ModelDemand:
        """What there is to do now."""
        return self.state.demand(self._model, since=self._since, now=self._now)

    async def on_start(self) -> None:
        """Wait a moment before the first batch: workers may run some of the work already."""
        self._since = self.context.clock.now()
        self.context.after(self._config.settle_s, Dispatch())

    async def receive(self, message: object) -> None:
        match message:
            case Enqueue(generation=generation, session=session):
                self._enqueue(generation, session)
            case Expect():
                self.state.expect(message, self._now)
            case Judge(standings=standings):
                self.state.judge(standings)
            case Expire():
                self._expire(message)
            case Done():
                await self._forget(message)
            case WorkerReport(status=status):
                await self._report(status)
            case WorkerLost(worker=worker):
                self._lose(worker)
            case GiveBack():
                self._take_back(message)
            case Dispatch():
                self._will_dispatch = False
                self._is_settled = True
                await self._dispatch()
        if not isinstance(message, Dispatch):
            self._dispatch_soon()

    @property
    def _now(self) -> float:
        return self.context.clock.monotonic()

    # -- work --------------------------------------------------------------------------------------------------------

    def _enqueue(self, generation: ReadyGeneration, session: ActorRef) -> None:
        now = self._now
        self._sessions[generation.key] = session
        expires_at = now + generation.deadline - self.context.clock.now()
        self.state.enqueue(generation, now=now, expires_at=expires_at)

    def _expire(self, expire: Expire) -> None:
        """What has not begun is of no use any more; its session says so on its output, and then it is forgotten."""
        if self.state.is_running(expire.key):
            self._overdue.add(expire.key)
        elif (session := self._sessions.get(expire.key)) is not None:
            self.context.run(_tell(session, expire.failure), name="expire")  # a session may wait for room here

    async def _forget(self, done: Done) -> None:
        for key in done.keys:
            self._sessions.pop(key, None)
            self._overdue.discard(key)
        unwanted = self.state.finish(done.keys, producer=done.producer, usage=done.usage, now=self._now)
        for worker, keys in unwanted.items():
            await self._refs[worker].tell(CancelGenerations(keys=keys))

    def _take_back(self, back: GiveBack) -> None:
        now = self._now
        returned = self.state.take_back(back.worker, back.keys, has_started=back.has_started, now=now)
        self._tell_returned(returned, back.reason)

    def _tell_returned(self, returned: Sequence[Returned], reason: ParrotError) -> None:
        self._num_returned += len(returned)
        for each in returned:
            self._emit_returned(each, reason)
            is_overdue = each.job.key in self._overdue
            self._overdue.discard(each.job.key)
            if not each.is_queued:
                self._give_up(each.job, reason)
            elif is_overdue:
                came_back = CameBack(each.job.generation.address.variable)
                self.context.run(_tell(self._sessions[each.job.key], came_back), name="came_back")

    def _give_up(self, job: Job, reason: ParrotError) -> None:
        self._num_given_up += 1
        error = GenerationAborted(
            f"given up after {job.num_lost} attempts: {reason.message}", num_attempts=job.num_lost
        )
        session = self._sessions.pop(job.key, None)
        if session is not None:
            failed = GenerationFailed(job.generation.address.variable, error)
            self.context.run(_tell(session, failed), name="give_up")  # a session may wait for room here

    # -- workers -----------------------------------------------------------------------------------------------------

    async def _report(self, status: WorkerStatus) -> None:
        worker = status.worker
        if worker not in self._refs:
            self._refs[worker] = self.context.system.remote(worker_address(worker), answers=Assigned)
        self._events.heard(status)
        if lost := self.state.report(status, self._now):
            reason = GenerationAborted(f"worker {worker!r} does not know of it", worker=worker)
            self._take_back(GiveBack(worker, lost, reason))
            for key in lost:
                self._look_up(key)
        await self._pin(self.state.workers[worker])

    def _look_up(self, key: str) -> None:
        """Let a session see whether an output is set already, before it is generated again."""
        if (session := self._sessions.get(key)) is not None:
            variable = VariableId(key.rpartition(".")[2])
            self.context.run(_tell(session, LookUp(variable)), name="look_up")

    async def _pin(self, ledger: WorkerLedger) -> None:
        """Tell a worker which prefixes to keep, if it keeps any and they have changed: at most once a heartbeat."""
        if not ledger.can_pin:
            ledger.pinned = None  # it begins anew
            return
        if not self._is_settled:
            return
        hashes = self.state.most_needed(self._config.max_pins)
        if ledger.pinned != (pinned := frozenset(hashes)):
            ledger.pinned = pinned
            await self._refs[ledger.worker].tell(PinPrefixes(hashes=list(hashes)))

    def _lose(self, worker: str) -> None:
        reason = GenerationAborted(f"worker {worker!r} was lost", worker=worker)
        self._tell_returned(self.state.lose(worker, self._now), reason)
        self._refs.pop(worker, None)

    # -- batches -----------------------------------------------------------------------------------------------------

    def _dispatch_soon(self) -> None:
        """Dispatch after everything that is in the mailbox now, so that what came together goes together."""
        if self._is_settled and not self._will_dispatch:
            self._will_dispatch = True
            tell_self(self.context, Dispatch())

    async def _dispatch(self) -> None:
        for batch in self.state.assign(self._now):
            self._send(batch)
        await self._prefill_ahead()
        self._set_alarm()

    def _send(self, batch: Batch) -> None:
        worker, placed = batch
        name = fresh_id("batch")
        self._num_batches += 1
        self._num_assigned += len(placed)
        self._num_continued += sum(bool(each.job.generation.output_ids) for each in placed)
        for each in placed:
            self._emit_assigned(each, batch=name, batch_size=len(placed))
        generations = [each.job.generation for each in placed]
        self.context.run(self._assign(self._refs[worker], worker, name, generations), name=f"assign:{name}")

    async def _assign(self, ref: RemoteRef, worker: str, name: str, generations: list[ReadyGeneration]) -> None:
        assign = to_assign(name, generations, self._events.traces)
        try:
            answer = await ref.ask(assign, timeout_s=self._config.assign_timeout_s)
        except ParrotError as error:
            keys = tuple(generation.key for generation in generations)
            await self._return(GiveBack(worker, keys, error, has_started=isinstance(error, AskTimeout)))
            return
        if isinstance(answer, Assigned) and answer.refused:
            stopped = ActorStopped(address=worker)
            await self._return(GiveBack(worker, tuple(answer.refused), stopped, has_started=False))

    async def _return(self, back: GiveBack) -> None:
        self.context.log.warning("batch_returned", worker=back.worker, num=len(back.keys), reason=back.reason.message)
        await self.context.ref.tell(back)

    def _set_alarm(self) -> None:
        """Dispatch again when somebody should not wait longer for a worker with its prefix, or one can read more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self.state.wake_at is not None:
            self._alarm = self.context.after(max(0.0, self.state.wake_at - self._now), Dispatch())

    async def _prefill_ahead(self) -> None:
        """Tell the workers whose plans have changed what to compute while the rest is generated."""
        planned, changed = self.state.plan_prefills()
        self._num_prefills += len(planned)
        for beginning in planned:
            self._emit_prefilling(beginning)
        for worker, plan in changed.items():
            await self._refs[worker].tell(to_prefills(plan))

    # -- events ------------------------------------------------------------------------------------------------------

    def _emit_assigned(self, placed: Placed, *, batch: str, batch_size: int) -> None:
        job, placement, prefix = placed
        generation = job.generation
        self._events.emit(
            generation.task_address,
            "assigned",
            variable=generation.address.variable,
            worker=placement.worker,
            batch=batch,
            batch_size=batch_size,
            prefix=prefix,
            objective=job.standing.objective,
            group=job.standing.group,
            decision=placement.decision,
            reason=placement.reason,
            attempt=generation.attempt,
            num_continued_tokens=len(generation.output_ids),
        )

    def _emit_returned(self, returned: Returned, reason: ParrotError) -> None:
        generation, worker = returned.job.generation, returned.worker
        self._events.emit(
            generation.task_address,
            "returned",
            variable=generation.address.variable,
            worker=worker,
            reason=reason.message,
            attempt=returned.attempt,
        )

    def _emit_prefilling(self, beginning: Beginning) -> None:
        tenant, session, variable = beginning.key.split(".")
        address = TaskAddress(TenantId(tenant), SessionId(session), TaskId(""))
        self._events.emit(address, "prefilling", variable=variable, worker=beginning.worker or "")


async def _tell(session: ActorRef, message: object) -> None:
    with suppress(ActorStopped):
        await session.tell(message)
