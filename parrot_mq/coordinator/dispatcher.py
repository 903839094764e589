"""One actor for each model: ready generations and workers with room become prefix-grouped batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from parrot_mq.actors import Actor, ActorRef, RemoteRef
from parrot_mq.coordinator.config import CoordinatorConfig
from parrot_mq.coordinator.events import Events
from parrot_mq.coordinator.placement import PrefixQueue
from parrot_mq.coordinator.protocol import Dispatch, Done, Enqueue, GenerationFailed, GiveBack, WorkerLost, WorkerReport
from parrot_mq.coordinator.ready import Known, ReadyGeneration
from parrot_mq.errors import ActorStopped, AskTimeout, GenerationAborted, ParrotError
from parrot_mq.messages import Assign, Assigned, CancelGenerations, TaskAddress, WorkerStatus, worker_address
from parrot_mq.types import fresh_id

__all__ = ["DispatcherActor"]

ASSIGN_TIMEOUT_S = 5.0


@dataclass(slots=True)
class Running:
    """A generation at a worker, and when it was sent there (monotonic seconds)."""

    generation: ReadyGeneration
    since: float


@dataclass(slots=True)
class WorkerLedger:
    """What one worker has: its own words, and what was assigned to it."""

    status: WorkerStatus
    ref: RemoteRef
    running: dict[str, Running] = field(default_factory=dict)
    adopted: set[str] = field(default_factory=set)
    """Keys that it runs for an earlier coordinator, and that nobody has enqueued here yet."""
    is_suspended: bool = False
    """It refused work or could not be reached; it gets no more before it is heard of again."""

    @property
    def num_free(self) -> int:
        """How many generations it takes now."""
        if self.status.state != "ready" or self.is_suspended:
            return 0
        return self.status.num_slots - len(self.running) - len(self.adopted)


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
        self._queue = PrefixQueue()
        self._sessions: dict[str, ActorRef] = {}
        self._workers: dict[str, WorkerLedger] = {}
        self._holders: dict[str, str] = {}
        self._is_settled = False
        self._will_dispatch = False

    async def on_start(self) -> None:
        """Wait a moment before the first batch: workers may run some of the work already."""
        self.context.after(self._config.settle_s, Dispatch())

    async def receive(self, message: object) -> None:
        match message:
            case Enqueue(generation=generation, session=session):
                self._enqueue(generation, session)
            case Done(keys=keys, producer=producer):
                await self._forget(keys, producer)
            case WorkerReport(status=status):
                await self._report(status)
            case WorkerLost(worker=worker):
                await self._lose(worker)
            case GiveBack():
                await self._take_back(message)
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
            holder = self._release(key)
            if holder is not None and holder != producer:
                unwanted.setdefault(holder, []).append(key)
        for holder, keys_there in unwanted.items():
            if (ledger := self._workers.get(holder)) is not None:
                await ledger.ref.tell(CancelGenerations(keys=keys_there))

    async def _take_back(self, back: GiveBack) -> None:
        """Queue again what did not finish at a worker, or give it up after too many attempts."""
        ledger = self._workers.get(back.worker)
        if ledger is None:
            return
        ledger.is_suspended = not back.has_started
        for key in back.keys:
            if (running := ledger.running.get(key)) is None:
                continue
            self._release(key)
            generation = running.generation
            if not back.has_started:
                self._queue.add(generation)
            elif generation.attempt < self._config.max_attempts:
                self._queue.add(generation.next_attempt())
            else:
                await self._give_up(generation, back.reason)

    async def _give_up(self, generation: ReadyGeneration, reason: ParrotError) -> None:
        attempts = generation.attempt
        error = GenerationAborted(f"given up after {attempts} attempts: {reason.message}", num_attempts=attempts)
        session = self._sessions.pop(generation.key, None)
        if session is not None:
            await session.tell(GenerationFailed(generation.address.variable, error))

    # -- workers -----------------------------------------------------------------------------------------------------

    async def _report(self, status: WorkerStatus) -> None:
        ledger = self._workers.get(status.worker)
        if ledger is None:
            ledger = WorkerLedger(status, self.context.system.remote(worker_address(status.worker), answers=Assigned))
            self._workers[status.worker] = ledger
            self._adopt(ledger)
        ledger.status = status
        ledger.is_suspended = False
        ledger.adopted.intersection_update(status.running)
        await self._reconcile(ledger)

    def _adopt(self, ledger: WorkerLedger) -> None:
        """Leave with a worker what it runs already."""
        for key in ledger.status.running:
            queued = self._queue.remove(key)
            if queued is not None:
                self._hold(ledger, queued)
            elif key not in self._holders:
                ledger.adopted.add(key)

    async def _reconcile(self, ledger: WorkerLedger) -> None:
        """Queue again what the worker should have and says it has not: something was lost on the way."""
        now = self.context.clock.monotonic()
        has = set(ledger.status.running)
        lost = [k for k, r in ledger.running.items() if k not in has and now - r.since > self._config.lease_s]
        if lost:
            worker = ledger.status.worker
            reason = GenerationAborted(f"worker {worker!r} does not know of it", worker=worker)
            await self._take_back(GiveBack(worker, tuple(lost), reason))

    async def _lose(self, worker: str) -> None:
        ledger = self._workers.get(worker)
        if ledger is None:
            return
        reason = GenerationAborted(f"worker {worker!r} was lost", worker=worker)
        await self._take_back(GiveBack(worker, tuple(ledger.running), reason))
        del self._workers[worker]

    def _hold(self, ledger: WorkerLedger, generation: ReadyGeneration) -> None:
        ledger.running[generation.key] = Running(generation, self.context.clock.monotonic())
        self._holders[generation.key] = ledger.status.worker

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
            self.context.tell_self_nowait(Dispatch())

    def _dispatch(self) -> None:
        while self._queue and (ledger := self._roomiest()) is not None:
            batch = self._queue.take(min(ledger.num_free, self._config.max_batch))
            for generation in batch:
                self._hold(ledger, generation)
            name = fresh_id("batch")
            for generation in batch:
                self._tell_assigned(generation, ledger.status.worker, name)
            self.context.run(self._assign(ledger, name, batch), name=f"assign:{name}")

    def _roomiest(self) -> WorkerLedger | None:
        ledger = max(self._workers.values(), key=lambda each: each.num_free, default=None)
        return ledger if ledger is not None and ledger.num_free > 0 else None

    def _tell_assigned(self, generation: ReadyGeneration, worker: str, batch: str) -> None:
        tenant, session, variable = generation.address
        address = TaskAddress(tenant, session, generation.task)
        self._events.emit(address, "assigned", variable=variable, worker=worker, batch=batch)

    async def _assign(self, ledger: WorkerLedger, name: str, batch: list[ReadyGeneration]) -> None:
        worker = ledger.status.worker
        try:
            answer = await ledger.ref.ask(_to_wire(name, batch), timeout_s=ASSIGN_TIMEOUT_S)
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


def _to_wire(name: str, batch: list[ReadyGeneration]) -> Assign:
    """List each segment once, however many generations use it."""
    index: dict[Known, int] = {}
    generations = []
    for ready in batch:
        prompt = [index.setdefault(segment, len(index)) for segment in ready.segments]
        generations.append(ready.to_wire(prompt))
    return Assign(batch=name, segments=list(index), generations=generations)
