"""A whole service in memory whose parts are started, stopped and killed one by one."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from parrot_workers.engine import Engine, GenerationRequest, ScriptedEngine
from parrot_workers.testing import scripted_worker

from parrot_mq.actors import ActorSystem, RemoteRef
from parrot_mq.bus import Bus, Delivery, MemoryBus, MemoryServer
from parrot_mq.client import Client
from parrot_mq.clock import SystemClock
from parrot_mq.coordinator import CoordinatorConfig, open_coordinator
from parrot_mq.coordinator.coordinator import CoordinatorActor
from parrot_mq.coordinator.facts import Facts
from parrot_mq.coordinator.statistics import Board
from parrot_mq.errors import EngineFailure, ParrotError
from parrot_mq.messages import (
    REGISTRY_ADDRESS,
    STREAM_DEAD,
    STREAM_TASKS,
    STREAM_VARS,
    DeadTask,
    ServiceQuery,
    ServiceReport,
    TaskEvent,
    WorkerStatus,
    actor_subject,
    decode,
)
from tests.coordinator.holding_engine import Gate, HoldingEngine

__all__ = [
    "FAST",
    "WAIT_S",
    "Process",
    "Service",
    "answer",
    "eventually",
    "expected",
    "make_engine",
    "raised_by",
    "running_service",
]

WAIT_S = 20.0
"""Longest wait for something that has to happen."""

FAST = CoordinatorConfig(lease_s=10.0, settle_s=0.0, model_grace_s=60.0)
"""A coordinator that assigns at once, and gives up no worker and no model however busy the machine is."""


def expected(prompt: str) -> str:
    """What every worker of these tests writes for a prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def answer(request: GenerationRequest) -> str:
    """Write `expected`, but fail where the prompt says FAIL."""
    if "FAIL" in request.text:
        raise EngineFailure(cause="the prompt says so")
    return expected(request.text)


def make_engine(write: Callable[[GenerationRequest], str], **settings: Any) -> ScriptedEngine:
    """A scripted engine that takes prompts of any length."""
    return ScriptedEngine(write, max_context_tokens=1_000_000_000, **{"tokens_per_step": 1_000, **settings})


async def eventually(condition: Callable[[], bool | Awaitable[bool]], *, within_s: float = WAIT_S) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + within_s
    while True:
        holds = condition()
        if await holds if isinstance(holds, Awaitable) else holds:
            return
        assert time.monotonic() < deadline, f"{condition} did not hold within {within_s} s"
        await asyncio.sleep(0.002)


async def raised_by(waiting: Awaitable[object]) -> ParrotError:
    """The error of ours that something ends with."""
    try:
        value = await waiting
    except ParrotError as error:
        return error
    raise AssertionError(f"no error, but {value!r}")


class Process:
    """What runs on one connection, as a process does: it can be stopped, or killed so that it says no last word."""

    def __init__(self, bus: Bus, main: Callable[[Bus], AbstractAsyncContextManager[Any]]) -> None:
        self.bus = bus
        self._main = main
        self._stop = asyncio.Event()
        self._is_killed = False
        self._started: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def start(self, group: asyncio.TaskGroup) -> Any:
        """Start it; returns what its context gives when it is ready."""
        self._task = group.create_task(self._run())
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
    def result(self) -> Any:
        """What its context gave."""
        return self._started.result()

    async def stop(self) -> None:
        """End it in order."""
        self._stop.set()
        await asyncio.wait([self._task])

    async def kill(self) -> None:
        """Cut its connection, then end it: nothing that it does on its way out is seen by anyone."""
        self._is_killed = True
        await self.bus.aclose()
        self._task.cancel()
        await asyncio.wait([self._task])


@dataclass(slots=True)
class Service:
    """The parts of a service, and what an observer sees of it.

    Attributes:
        server: The world that all share.
        bus: The observer's connection.
        num_stored: How often each variable was stored.
        events: All task events, in order.
        states: What each worker said last how it is.
    """

    server: MemoryServer
    bus: Bus
    group: asyncio.TaskGroup
    coordinators: list[Process] = field(default_factory=list)
    workers: dict[str, Process] = field(default_factory=dict)
    num_stored: Counter[str] = field(default_factory=Counter)
    events: list[TaskEvent] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)

    # -- parts -------------------------------------------------------------------------------------------------------

    def client(self, tenant: str = "default") -> Client:
        """A client on the observer's connection."""
        return Client(self.bus, tenant=tenant)

    async def add_coordinator(self, config: CoordinatorConfig = FAST, *, bus: MemoryBus | None = None) -> Process:
        """Start one more coordinator; it takes over."""
        process = Process(bus or MemoryBus(self.server), lambda bus: open_coordinator(bus, config))
        await process.start(self.group)
        self.coordinators.append(process)
        return process

    async def add_visible_coordinator(
        self, config: CoordinatorConfig = FAST, *, bus: MemoryBus | None = None
    ) -> ActorSystem:
        """Start one more coordinator; returns its actors."""
        process = Process(bus or MemoryBus(self.server), lambda bus: _open_visible(bus, config))
        system: ActorSystem = await process.start(self.group)
        self.coordinators.append(process)
        return system

    async def add_worker(
        self, name: str = "worker", engine: Callable[[], Engine] | None = None, **settings: Any
    ) -> Process:
        """Start a worker with a scripted engine, or with another one."""
        num_slots = settings.setdefault("num_slots", 64)
        engine = engine or (lambda: make_engine(answer, num_slots=num_slots))
        settings.setdefault("heartbeat_s", 0.05)
        connection = MemoryBus(self.server)
        process = Process(connection, lambda bus: scripted_worker(bus, answer, name=name, engine=engine, **settings))
        await process.start(self.group)
        self.workers[name] = process
        return process

    async def add_holding_worker(self, name: str = "worker", *, gate: Gate, num_slots: int = 16) -> Process:
        """Start a worker that keeps prompts with HOLD in them until the gate is opened."""
        return await self.add_worker(
            name, lambda: HoldingEngine(make_engine(answer, num_slots=num_slots), gate), drain_s=0.2
        )

    # -- what is seen ------------------------------------------------------------------------------------------------

    async def is_all_done(self) -> bool:
        """Whether no unfinished task is left."""
        return await self.bus.is_empty(STREAM_TASKS, "pmq.*.task.>")

    async def dead(self) -> list[DeadTask]:
        """The records of tasks that were given up."""
        return [decode(stored.payload, DeadTask) for stored in self.server.streams[STREAM_DEAD].after(0)]

    async def report(self) -> ServiceReport:
        """What the coordinator says about the service."""
        registry = RemoteRef(self.bus, REGISTRY_ADDRESS, answers=ServiceReport)
        report: ServiceReport = await registry.ask(ServiceQuery(), timeout_s=5)
        return report

    async def has_no_worker(self) -> bool:
        """Whether the coordinator has given up all workers."""
        return not (await self.report()).workers

    async def has_no_autoscaler(self) -> bool:
        """Whether the coordinator has forgotten all autoscalers."""
        return not (await self.report()).autoscalers

    def kinds(self, variable: str) -> list[str]:
        """What happened to a variable, in order."""
        return [event.kind for event in self.events if event.variable == variable]

    def assignments(self, variable: str) -> list[str]:
        """To which workers it was assigned, in order."""
        return [event.worker for event in self.events if event.kind == "assigned" and event.variable == variable]

    async def _on_variable(self, delivery: Delivery) -> None:
        self.num_stored[delivery.subject.partition(".var.")[2]] += 1

    async def _on_event(self, delivery: Delivery) -> None:
        self.events.append(decode(delivery.payload, TaskEvent))

    async def _on_status(self, delivery: Delivery) -> None:
        if b"worker.status" in delivery.payload:
            status = decode(delivery.payload, WorkerStatus)
            self.states[status.worker] = status.state

    async def observe(self) -> None:
        """Count what is stored and keep the events."""
        await self.bus.follow(STREAM_VARS, self._on_variable, after_sequence=0)
        await self.bus.subscribe("pmq.*.event.>", self._on_event)
        await self.bus.subscribe(actor_subject("coordinator", "registry"), self._on_status)

    async def stop(self) -> None:
        """Stop what still runs."""
        for process in [*self.workers.values(), *reversed(self.coordinators)]:
            await process.stop()


@asynccontextmanager
async def _open_visible(bus: Bus, config: CoordinatorConfig) -> AsyncIterator[ActorSystem]:
    """What `open_coordinator` does, but it gives the actors and not the facts."""
    facts, clock, board = Facts(bus), SystemClock(), Board()
    async with ActorSystem(config.node, bus=bus, clock=clock) as system:
        await system.spawn(lambda: CoordinatorActor(bus, facts, config, clock, board), name="coordinator")
        yield system


@asynccontextmanager
async def running_service(
    config: CoordinatorConfig | None = FAST, *, workers: Iterable[str] = ("worker",)
) -> AsyncIterator[Service]:
    """A service with a coordinator (unless `config` is None) and workers, for the length of a block."""
    server = MemoryServer()
    server.ensure_streams()
    async with asyncio.timeout(55), MemoryBus(server) as bus, asyncio.TaskGroup() as group:
        service = Service(server, bus, group)
        await service.observe()
        try:
            if config is not None:
                await service.add_coordinator(config)
            for name in workers:
                await service.add_worker(name)
            yield service
        finally:
            await service.stop()
