"""The actor that workers talk to: who is there, and whose lease has ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from parrot_mq.actors import Actor, ActorRef
from parrot_mq.coordinator.calls.counts import CallCounts
from parrot_mq.coordinator.models import Models
from parrot_mq.coordinator.protocol import CheckLeases, GiveBack, WorkerLost, WorkerReport
from parrot_mq.coordinator.statistics import Lease
from parrot_mq.errors import ActorStopped
from parrot_mq.messages import (
    AutoscalerStatus,
    GenerationsReturned,
    ModelDemand,
    ServiceQuery,
    ServiceReport,
    WorkerStatus,
)

__all__ = ["RegistryActor"]

AUTOSCALER_LEASE_S = 15.0
"""An autoscaler that was not heard of for so long is not there."""

SpawnDispatcher = Callable[[str], Awaitable[ActorRef]]


class RegistryActor(Actor):
    """Takes the workers' heartbeats, keeps their leases, and passes both on to the dispatcher of their model.

    A worker registers by being heard of: there is nothing to undo when either side restarts.
    """

    def __init__(
        self,
        *,
        models: Models,
        spawn_dispatcher: SpawnDispatcher,
        declared: tuple[str, ...],
        lease_s: float,
        leases: dict[str, Lease],
        count_unfinished: Callable[[], int],
        process: str,
        demands: Mapping[str, Callable[[], ModelDemand]],
        calls: CallCounts,
    ) -> None:
        self._models = models
        self._spawn_dispatcher = spawn_dispatcher
        self._declared = declared
        self._lease_s = lease_s
        self._count_unfinished = count_unfinished
        self._process = process
        self._demands = demands
        self._calls = calls
        self._autoscalers: dict[str, tuple[AutoscalerStatus, float]] = {}  # each with when it was heard of
        self._leases = leases  # outlives a failure of this actor: else nobody would notice that a worker is gone

    async def on_start(self) -> None:
        """Serve the declared models, and look at the leases from time to time."""
        for model in self._declared:
            await self._dispatcher(model)
        self.context.every(self._lease_s / 4, CheckLeases())

    async def receive(self, message: object) -> ServiceReport | None:
        with suppress(ActorStopped):  # the coordinator ends, and with it all that it could be told to
            return await self._handle(message)
        return None

    async def _handle(self, message: object) -> ServiceReport | None:
        match message:
            case WorkerStatus(state="stopped"):
                await self._end(message.worker)
            case WorkerStatus():
                await self._renew(message)
            case GenerationsReturned():
                back = GiveBack(message.worker, tuple(message.keys), message.reason.to_error())
                await (await self._dispatcher(message.model)).tell(back)
            case AutoscalerStatus():
                await self._note_autoscaler(message)
            case ServiceQuery():
                return self._report()
            case CheckLeases():
                await self._check()
        return None

    def _report(self) -> ServiceReport:
        workers = [lease.status for lease in self._leases.values()]
        return ServiceReport(
            models=self._models.names,
            workers=workers,
            num_unfinished=self._count_unfinished(),
            coordinator=self._process,
            demand=[self._demands[model]() for model in self._models.names if model in self._demands],
            at=self.context.clock.now(),
            autoscalers=[status for status, _ in self._autoscalers.values()],
            functions=self._calls.report(),
        )

    async def _note_autoscaler(self, status: AutoscalerStatus) -> None:
        """Serve what it can start workers for, so that work may come before the first of them runs."""
        self._autoscalers[status.autoscaler] = status, self.context.clock.monotonic()
        for model in status.models:
            await self._dispatcher(model)

    async def _renew(self, status: WorkerStatus) -> None:
        known = self._leases.get(status.worker)
        if known is None:
            self.context.log.info("worker_registered", worker=status.worker, model=status.model, slots=status.num_slots)
        elif known.status.model != status.model:
            await self._end(status.worker)
        self._leases[status.worker] = Lease(status, self.context.clock.monotonic())
        await (await self._dispatcher(status.model)).tell(WorkerReport(status))

    async def _check(self) -> None:
        now = self.context.clock.monotonic()
        self._autoscalers = {
            name: (status, heard_at)
            for name, (status, heard_at) in self._autoscalers.items()
            if now - heard_at <= AUTOSCALER_LEASE_S
        }
        oldest = now - self._lease_s
        for worker in [worker for worker, lease in self._leases.items() if lease.heard_at < oldest]:
            self.context.log.warning("worker_lost", worker=worker, lease_s=self._lease_s)
            await self._end(worker)

    async def _end(self, worker: str) -> None:
        lease = self._leases.pop(worker, None)
        if lease is not None:
            await self._models.dispatcher(lease.status.model).tell(WorkerLost(worker))

    async def _dispatcher(self, model: str) -> ActorRef:
        if model not in self._models.names:
            await self._models.add(model, await self._spawn_dispatcher(model))
        return self._models.dispatcher(model)
