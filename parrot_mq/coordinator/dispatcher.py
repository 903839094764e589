"""One actor for each model: ready generations and workers with room become prefix-grouped batches."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from parrot_mq.actors import Actor, ActorRef
from parrot_mq.coordinator.config import CoordinatorConfig
from parrot_mq.coordinator.events import Events
from parrot_mq.coordinator.ledger import Running, WorkerLedger
from parrot_mq.coordinator.needs import PrefixNeeds
from parrot_mq.coordinator.placement import FairQueue
from parrot_mq.coordinator.protocol import (
    Dispatch,
    Done,
    Enqueue,
    Expect,
    GenerationFailed,
    GiveBack,
    WorkerLost,
    WorkerReport,
    tell_self,
)
from parrot_mq.coordinator.ready import Known, ReadyGeneration
from parrot_mq.coordinator.statistics import DispatcherStatistics
from parrot_mq.errors import ActorStopped, AskTimeout, GenerationAborted, ParrotError
from parrot_mq.messages import (
    Assign,
    Assigned,
    CancelGenerations,
    PinPrefixes,
    TaskAddress,
    WorkerStatus,
    worker_address,
)
from parrot_mq.types import fresh_id

__all__ = ["DispatcherActor"]


class DispatcherActor(Actor):
    """Hands out the work of one model.

    The ledger is ours: a slot is taken when a generation is assigned, and free when its output is set. A worker's own
    list of what it runs, in its heartbeat, corrects the ledger.

    Delivery: a generation may be assigned more than once; its output is written once.
    """

    def __init__(self, model: str, *, config: CoordinatorConfig, events: Events) -> None:
        self._model = model
        self._config = config
        self._events = events
        self._queue = FairQueue()
        self._needs = PrefixNeeds()
        self._sessions: dict[str, ActorRef] = {}
        self._workers: dict[str, WorkerLedger] = {}
        self._holders: dict[str, str] = {}
        self._is_settled = False
        self._will_dispatch = False
        self._num_batches = self._num_assigned = self._num_returned = self._num_given_up = 0

    def statistics(self) -> DispatcherStatistics:
        """What it has to do, and has done since it began."""
        return DispatcherStatistics(
            num_ready=len(self._queue),
            num_running=len(self._holders),
            num_batches=self._num_batches,
            num_assigned=self._num_assigned,
            num_returned=self._num_returned,
            num_given_up=self._num_given_up,
        )

    async def on_start(self) -> None:
        """Wait a moment before the first batch: workers may run some of the work already."""
        self.context.after(self._config.settle_s, Dispatch())

    async def receive(self, message: object) -> None:
        match message:
            case Enqueue(generation=generation, session=session):
                self._enqueue(generation, session)
            case Expect(key=key, prefixes=prefixes):
                self._needs.set(key, prefixes)
            case Done(keys=keys, producer=producer):
                await self._forget(keys, producer)
            case WorkerReport(status=status):
                await self._report(status)
            case WorkerLost(worker=worker):
                self._lose(worker)
            case GiveBack():
                self._take_back(message)
            case Dispatch():
                self._will_dispatch = False
                self._is_settled = True
                self._dispatch()
        if not isinstance(message, Dispatch):
            self._dispatch_soon()

    # -- work --------------------------------------------------------------------------------------------------------

    def _enqueue(self, generation: ReadyGeneration, session: ActorRef) -> None:
        key = generation.key
        if key in self._holders:
            return
        self._sessions[key] = session
        self._needs.set(key, generation.prefix_hashes)
        for ledger in self._workers.values():
            if key in ledger.adopted:
                ledger.adopted.remove(key)
                self._hold(ledger, generation)
                return
        self._queue.add(generation)

    async def _forget(self, keys: Iterable[str], producer: str) -> None:
        unwanted: dict[str, list[str]] = {}
        for key in keys:
            self._sessions.pop(key, None)
            self._queue.remove(key)
            self._needs.remove(key)
            holder = self._release(key)
            if holder is not None and holder != producer:
                unwanted.setdefault(holder, []).append(key)
        for holder, keys_there in unwanted.items():
            if (ledger := self._workers.get(holder)) is not None:
                await ledger.ref.tell(CancelGenerations(keys=keys_there))

    def _take_back(self, back: GiveBack) -> None:
        """Queue again what did not finish at a worker, or give it up after too many attempts."""
        ledger = self._workers.get(back.worker)
        if ledger is None:
            return
        ledger.is_suspended = True
        for key in back.keys:
            if (running := ledger.running.get(key)) is None:
                continue
            self._release(key)
            self._num_returned += 1
            generation = running.generation
            if not back.has_started:
                self._queue.add(generation)
            elif generation.attempt < self._config.max_attempts:
                self._queue.add(generation.next_attempt())
            else:
                self._give_up(generation, back.reason)

    def _give_up(self, generation: ReadyGeneration, reason: ParrotError) -> None:
        attempts = generation.attempt
        error = GenerationAborted(f"given up after {attempts} attempts: {reason.message}", num_attempts=attempts)
        self._needs.remove(generation.key)
        self._num_given_up += 1
        session = self._sessions.pop(generation.key, None)
        if session is not None:
            failed = GenerationFailed(generation.address.variable, error)
            self.context.run(_tell(session, failed), name="give_up")  # a session may wait for room here

    # -- workers -----------------------------------------------------------------------------------------------------

    async def _report(self, status: WorkerStatus) -> None:
        ledger = self._workers.get(status.worker)
        if ledger is None:
            ledger = WorkerLedger(status, self.context.system.remote(worker_address(status.worker), answers=Assigned))
            self._workers[status.worker] = ledger
            # Only now: of a worker that is known, what we have not assigned is done, and it has not noticed yet.
            ledger.adopted.update(key for key in status.running if key not in self._holders)
        ledger.status = status
        ledger.is_suspended = False
        self._adopt(ledger)
        self._reconcile(ledger)
        await self._pin(ledger)

    def _adopt(self, ledger: WorkerLedger) -> None:
        """Leave with a worker what it runs already."""
        for key in ledger.status.running:
            if (queued := self._queue.remove(key)) is not None:
                self._hold(ledger, queued)
                ledger.adopted.discard(key)
        ledger.adopted.intersection_update(ledger.status.running)

    def _reconcile(self, ledger: WorkerLedger) -> None:
        """Queue again what the worker should have and says it has not: something was lost on the way."""
        lost = ledger.find_lost(sent_before=self.context.clock.monotonic() - self._config.lease_s)
        if lost:
            reason = GenerationAborted(f"worker {ledger.worker!r} does not know of it", worker=ledger.worker)
            self._take_back(GiveBack(ledger.worker, lost, reason))

    async def _pin(self, ledger: WorkerLedger) -> None:
        """Tell a worker which prefixes to keep, if it keeps any and they have changed: at most once a heartbeat."""
        if not ledger.can_pin:
            ledger.pinned = None  # it begins anew
            return
        if not self._is_settled:
            return
        hashes = self._needs.most_needed(self._config.max_pins)
        if ledger.pinned != (pinned := frozenset(hashes)):
            ledger.pinned = pinned
            await ledger.ref.tell(PinPrefixes(hashes=list(hashes)))

    def _lose(self, worker: str) -> None:
        ledger = self._workers.get(worker)
        if ledger is None:
            return
        reason = GenerationAborted(f"worker {worker!r} was lost", worker=worker)
        self._take_back(GiveBack(worker, tuple(ledger.running), reason))
        del self._workers[worker]

    def _hold(self, ledger: WorkerLedger, generation: ReadyGeneration) -> None:
        ledger.running[generation.key] = Running(generation, self.context.clock.monotonic())
        self._holders[generation.key] = ledger.worker

    def _release(self, key: str) -> str | None:
        """Free the slot of a generation; returns the worker that had it."""
        holder = self._holders.pop(key, None)
        if holder is not None and (ledger := self._workers.get(holder)) is not None:
            ledger.running.pop(key, None)
        return holder

    # -- batches -----------------------------------------------------------------------------------------------------

    def _dispatch_soon(self) -> None:
        """Dispatch after everything that is in the mailbox now, so that what came together goes together."""
        if self._is_settled and not self._will_dispatch and self._queue:
            self._will_dispatch = True
            tell_self(self.context, Dispatch())

    def _dispatch(self) -> None:
        while self._queue and (ledger := self._roomiest()) is not None:
            batch = self._queue.take(min(ledger.num_free, self._config.max_batch))
            for generation in batch:
                self._hold(ledger, generation)
            self._num_batches += 1
            self._num_assigned += len(batch)
            name = fresh_id("batch")
            for generation in batch:
                self._tell_assigned(generation, ledger.worker, name)
            self.context.run(self._assign(ledger, name, batch), name=f"assign:{name}")

    def _roomiest(self) -> WorkerLedger | None:
        ledger = max(self._workers.values(), key=lambda each: each.num_free, default=None)
        return ledger if ledger is not None and ledger.num_free > 0 else None

    def _tell_assigned(self, generation: ReadyGeneration, worker: str, batch: str) -> None:
        tenant, session, variable = generation.address
        address = TaskAddress(tenant, session, generation.task)
        self._events.emit(address, "assigned", variable=variable, worker=worker, batch=batch)

    async def _assign(self, ledger: WorkerLedger, name: str, batch: list[ReadyGeneration]) -> None:
        worker = ledger.worker
        try:
            answer = await ledger.ref.ask(_to_wire(name, batch), timeout_s=self._config.assign_timeout_s)
        except ParrotError as error:
            keys = tuple(generation.key for generation in batch)
            await self._return(GiveBack(worker, keys, error, has_started=isinstance(error, AskTimeout)))
            return
        if isinstance(answer, Assigned) and answer.refused:
            stopped = ActorStopped(address=worker)
            await self._return(GiveBack(worker, tuple(answer.refused), stopped, has_started=False))

    async def _return(self, back: GiveBack) -> None:
        self.context.log.warning("batch_returned", worker=back.worker, num=len(back.keys), reason=back.reason.message)
        await self.context.ref.tell(back)


async def _tell(session: ActorRef, message: object) -> None:
    with suppress(ActorStopped):
        await session.tell(message)


def _to_wire(name: str, batch: list[ReadyGeneration]) -> Assign:
    """List each segment once, however many generations use it."""
    index: dict[Known, int] = {}
    generations = []
    for ready in batch:
        prompt = [index.setdefault(segment, len(index)) for segment in ready.segments]
        generations.append(ready.to_wire(prompt))
    return Assign(batch=name, segments=list(index), generations=generations)
