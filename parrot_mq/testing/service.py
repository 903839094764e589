"""A whole service in one process and in virtual time: coordinators, workers, clients, and a network between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar

from parrot_mq.bus import Bus, MemoryBus, MemoryServer
from parrot_mq.client import Client
from parrot_mq.coordinator import (
    Candidate,
    Coordinator,
    CoordinatorConfig,
    LeaderConfig,
    open_candidate,
    open_coordinator,
)
from parrot_mq.tasks import task_group
from parrot_mq.testing.network import NetworkConditions, SimulatedNetwork
from parrot_mq.testing.simulated_texts import Answer
from parrot_mq.testing.simulated_worker import SimulatedWorker, SimulatedWorkerConfig, simulated_worker
from parrot_mq.testing.virtual_time import SimulatedClock

__all__ = ["SimulatedProcess", "SimulatedService", "simulated_service"]

T = TypeVar("T")


class SimulatedProcess(Generic[T]):
    """What runs as one process does, on connections of its own. `SimulatedService` starts it.

    Args:
        name: For reports.
        connect: Makes a connection.
        main: What it does, from the moment on when it is ready; it takes the process, to connect by it.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], MemoryBus],
        main: Callable[[SimulatedProcess[T]], AbstractAsyncContextManager[T]],
    ) -> None:
        self.name = name
        self._connect = connect
        self._main = main
        self._buses: list[MemoryBus] = []
        self._is_cut = False
        self._is_killed = False
        self._stop = asyncio.Event()
        self._started: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    async def start(self, group: asyncio.TaskGroup) -> T:
        """Start it; returns what its main gives when it is ready."""
        self._task = group.create_task(self._run(), name=self.name)
        return await self._started

    async def _run(self) -> None:
        try:
            async with self._main(self) as thing:
                self._started.set_result(thing)
                await self._stop.wait()
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            elif not self._is_killed:
                raise

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Bus]:
        """A connection for the length of a block; it shares the fate of the process."""
        bus = self._connect()
        self._buses.append(bus)
        if self._is_cut:
            bus.link.cut()
        try:
            async with bus:
                yield bus
        finally:
            self._buses.remove(bus)

    @property
    def thing(self) -> T:
        """What it is to those who look at it: a `Coordinator`, a `Candidate`, a `SimulatedWorker`."""
        return self._started.result()

    @property
    def is_running(self) -> bool:
        """Whether it was neither stopped nor killed."""
        return not self._stop.is_set() and not self._is_killed

    def cut(self) -> None:
        """Take its connections away, also those that it will open, until they are mended."""
        self._is_cut = True
        for bus in self._buses:
            bus.link.cut()

    def mend(self) -> None:
        """Give its connections back."""
        self._is_cut = False
        for bus in self._buses:
            bus.link.mend()

    async def stop(self) -> None:
        """End it in order. May be called twice."""
        self._stop.set()
        await asyncio.wait([self._task])

    async def kill(self) -> None:
        """Cut its connections, then end it: nothing that it does on its way out is seen by anyone."""
        self._is_killed = True
        for bus in self._buses:
            bus.abort()
        self._task.cancel()
        await asyncio.wait([self._task])


class SimulatedService:
    """The parts of a service, each on a connection of its own. Make it by `simulated_service`.

    Attributes:
        server: What all are connected to; its streams can be looked at.
        network: What lies between.
        clock: The time of all.
        coordinators: All that were started, in order; the newest one acts.
        candidates: All that were started, in order; the one that has the lease acts.
        workers: All that were started, by name; the last one of each name.
    """

    def __init__(self, server: MemoryServer, network: SimulatedNetwork, group: asyncio.TaskGroup) -> None:
        self.server = server
        self.network = network
        self.clock = SimulatedClock()
        self.coordinators: list[SimulatedProcess[Coordinator]] = []
        self.candidates: list[SimulatedProcess[Candidate]] = []
        self.workers: dict[str, SimulatedProcess[SimulatedWorker]] = {}
        self._group = group
        self._clients: list[MemoryBus] = []
        self._processes: list[SimulatedProcess[Any]] = []

    def connect(self, conditions: NetworkConditions | None = None) -> MemoryBus:
        """One more connection; whoever asks for it closes it."""
        return MemoryBus(self.server, link=self.network.link(conditions))

    def client(self, tenant: str = "default", *, network: NetworkConditions | None = None) -> Client:
        """A client with a connection of its own, perhaps over a worse network; it is closed with the service."""
        self._clients.append(self.connect(network))
        return Client(self._clients[-1], tenant=tenant)

    async def start_coordinator(self, config: CoordinatorConfig | None = None) -> SimulatedProcess[Coordinator]:
        """Start one more coordinator, which takes over at once."""

        @asynccontextmanager
        async def main(process: SimulatedProcess[Coordinator]) -> AsyncIterator[Coordinator]:
            async with process.connect() as bus, open_coordinator(bus, config, self.clock) as running:
                yield running

        process = await self._start(f"coordinator-{len(self.coordinators) + 1}", main)
        self.coordinators.append(process)
        return process

    async def start_candidate(
        self, config: CoordinatorConfig | None = None, leader_config: LeaderConfig | None = None
    ) -> SimulatedProcess[Candidate]:
        """Start one more coordinator, which stands by as long as another one leads."""
        name = f"candidate-{len(self.candidates) + 1}"
        leader_config = leader_config or LeaderConfig(name=name)
        process = await self._start(
            name, lambda process: open_candidate(process.connect, config, leader_config, self.clock)
        )
        self.candidates.append(process)
        return process

    async def start_worker(
        self, config: SimulatedWorkerConfig | None = None, *, answer: Answer | None = None
    ) -> SimulatedProcess[SimulatedWorker]:
        """Start one more worker."""
        config = config or SimulatedWorkerConfig()

        @asynccontextmanager
        async def main(process: SimulatedProcess[SimulatedWorker]) -> AsyncIterator[SimulatedWorker]:
            async with (
                process.connect() as bus,
                simulated_worker(bus, config, answer=answer, clock=self.clock) as worker,
            ):
                yield worker

        process = await self._start(config.worker_id, main)
        self.workers[config.worker_id] = process
        return process

    async def _start(
        self, name: str, main: Callable[[SimulatedProcess[T]], AbstractAsyncContextManager[T]]
    ) -> SimulatedProcess[T]:
        process = SimulatedProcess(name, self.connect, main)
        await process.start(self._group)
        self._processes.append(process)
        return process

    async def stop(self) -> None:
        """End what still runs, the newest first."""
        for process in reversed(self._processes):
            await process.stop()
        for bus in self._clients:
            await bus.aclose()


@asynccontextmanager
async def simulated_service(
    *,
    seed: int = 0,
    network: NetworkConditions | None = None,
    coordinator: CoordinatorConfig | None = None,
    num_candidates: int = 0,
    workers: Iterable[SimulatedWorkerConfig] | None = None,
    answer: Answer | None = None,
) -> AsyncIterator[SimulatedService]:
    """A service for the length of a block, within `run_simulation`.

    Args:
        seed: Decides what the network does.
        network: How bad it is; perfect by default.
        coordinator: How the coordinator runs.
        num_candidates: Instead of one coordinator, so many that take turns to lead.
        workers: Which workers there are; one by default.
        answer: What the workers write for a prompt; without it, words that follow from prompt and seed.
    """
    conditions = SimulatedNetwork(network or NetworkConditions(), seed=seed)
    server = MemoryServer(seed=seed, clock=SimulatedClock(), fault=conditions.fault)
    server.ensure_streams()
    async with task_group() as group:
        service = SimulatedService(server, conditions, group)
        try:
            for _ in range(num_candidates):
                await service.start_candidate(coordinator)
            if not num_candidates:
                await service.start_coordinator(coordinator)
            for config in [SimulatedWorkerConfig(worker_id="worker")] if workers is None else workers:
                await service.start_worker(config, answer=answer)
            yield service
        finally:
            await service.stop()
