"""A whole service in one process and in virtual time: coordinators, workers, clients, and a network between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Generic, TypeVar

from parrot_mq.bus import Bus, MemoryBus, MemoryServer
from parrot_mq.client import Client
from parrot_mq.coordinator import Coordinator, CoordinatorConfig, open_coordinator
from parrot_mq.tasks import task_group
from parrot_mq.testing.network import NetworkConditions, SimulatedNetwork
from parrot_mq.testing.simulated_texts import Answer
from parrot_mq.testing.simulated_worker import SimulatedWorker, SimulatedWorkerConfig, simulated_worker
from parrot_mq.testing.virtual_time import SimulatedClock

__all__ = ["SimulatedProcess", "SimulatedService", "simulated_service"]

T = TypeVar("T")


class SimulatedProcess(Generic[T]):
    """What runs on a connection of its own, as a process does. `SimulatedService` starts it.

    Attributes:
        bus: Its connection. `bus.link.cut()` and `bus.link.mend()` take it away for some time.
    """

    def __init__(self, bus: MemoryBus, main: Callable[[Bus], AbstractAsyncContextManager[T]], *, name: str) -> None:
        self.bus = bus
        self.name = name
        self._main = main
        self._stop = asyncio.Event()
        self._is_killed = False
        self._started: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    async def start(self, group: asyncio.TaskGroup) -> T:
        """Start it; returns what its context gives when it is ready."""
        self._task = group.create_task(self._run(), name=self.name)
        return await self._started

    async def _run(self) -> None:
        try:
            async with self.bus, self._main(self.bus) as thing:
                self._started.set_result(thing)
                await self._stop.wait()
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            elif not self._is_killed:
                raise

    @property
    def thing(self) -> T:
        """What its context gave: a `Coordinator`, a `SimulatedWorker`."""
        return self._started.result()

    @property
    def is_running(self) -> bool:
        """Whether it was neither stopped nor killed."""
        return not self._stop.is_set() and not self._is_killed

    async def stop(self) -> None:
        """End it in order. May be called twice."""
        self._stop.set()
        await asyncio.wait([self._task])

    async def kill(self) -> None:
        """Cut its connection, then end it: nothing that it does on its way out is seen by anyone."""
        self._is_killed = True
        self.bus.abort()
        self._task.cancel()
        await asyncio.wait([self._task])


class SimulatedService:
    """The parts of a service, each on a connection of its own. Make it by `simulated_service`.

    Attributes:
        server: What all are connected to; its streams can be looked at.
        network: What lies between.
        clock: The time of all.
        coordinators: All that were started, in order.
        workers: All that were started, by name; the last one of each name.
    """

    def __init__(self, server: MemoryServer, network: SimulatedNetwork, group: asyncio.TaskGroup) -> None:
        self.server = server
        self.network = network
        self.clock = SimulatedClock()
        self.coordinators: list[SimulatedProcess[Coordinator]] = []
        self.workers: dict[str, SimulatedProcess[SimulatedWorker]] = {}
        self._group = group
        self._clients: list[MemoryBus] = []

    def connect(self, conditions: NetworkConditions | None = None) -> MemoryBus:
        """One more connection; whoever asks for it closes it."""
        return MemoryBus(self.server, link=self.network.link(conditions))

    def client(self, tenant: str = "default", *, network: NetworkConditions | None = None) -> Client:
        """A client with a connection of its own, perhaps over a worse network; it is closed with the service."""
        self._clients.append(self.connect(network))
        return Client(self._clients[-1], tenant=tenant)

    async def start_coordinator(self, config: CoordinatorConfig | None = None) -> SimulatedProcess[Coordinator]:
        """Start one more coordinator."""
        process = SimulatedProcess(
            self.connect(),
            lambda bus: open_coordinator(bus, config, self.clock),
            name=f"coordinator-{len(self.coordinators) + 1}",
        )
        await process.start(self._group)
        self.coordinators.append(process)
        return process

    async def start_worker(
        self, config: SimulatedWorkerConfig | None = None, *, answer: Answer | None = None
    ) -> SimulatedProcess[SimulatedWorker]:
        """Start one more worker."""
        config = config or SimulatedWorkerConfig()
        process = SimulatedProcess(
            self.connect(),
            lambda bus: simulated_worker(bus, config, answer=answer, clock=self.clock),
            name=config.worker_id,
        )
        await process.start(self._group)
        self.workers[config.worker_id] = process
        return process

    async def stop(self) -> None:
        """End what still runs: workers first."""
        for worker in list(self.workers.values()):
            await worker.stop()
        for coordinator in reversed(self.coordinators):
            await coordinator.stop()
        for bus in self._clients:
            await bus.aclose()


@asynccontextmanager
async def simulated_service(
    *,
    seed: int = 0,
    network: NetworkConditions | None = None,
    coordinator: CoordinatorConfig | None = None,
    workers: Iterable[SimulatedWorkerConfig] | None = None,
    answer: Answer | None = None,
) -> AsyncIterator[SimulatedService]:
    """A service for the length of a block, within `run_simulation`.

    Args:
        seed: Decides what the network does.
        network: How bad it is; perfect by default.
        coordinator: How the coordinator runs.
        workers: Which workers there are; one by default.
        answer: What the workers write for a prompt; without it, words that follow from prompt and seed.
    """
    conditions = SimulatedNetwork(network or NetworkConditions(), seed=seed)
    server = MemoryServer(seed=seed, clock=SimulatedClock(), fault=conditions.fault)
    server.ensure_streams()
    async with task_group() as group:
        service = SimulatedService(server, conditions, group)
        try:
            await service.start_coordinator(coordinator)
            for config in [SimulatedWorkerConfig(worker_id="worker")] if workers is None else workers:
                await service.start_worker(config, answer=answer)
            yield service
        finally:
            await service.stop()
