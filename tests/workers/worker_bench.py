"""A worker on a bus of its own, and a coordinator that the test plays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from parrot_workers.board import WorkerBoard
from parrot_workers.bridge import EngineFactory
from parrot_workers.config import WorkerConfig
from parrot_workers.engine import Engine, create_engine
from parrot_workers.tiny_model import checkpoint_path
from parrot_workers.worker import WorkerActor

from parrot_mq.actors import Actor, ActorRef, ActorSystem, RemoteRef, RestartPolicy
from parrot_mq.bus import Bus, Delivery, MemoryBus, MemoryServer, get_values
from parrot_mq.messages import (
    STREAM_VARS,
    Assign,
    Assigned,
    BlobRef,
    Generation,
    GenerationsReturned,
    TaskEvent,
    TokenDelta,
    Value,
    VariableAddress,
    WorkerMessage,
    WorkerStatus,
    decode,
)
from parrot_mq.types import Sampling, SessionId, TenantId, VariableId, WorkerId
from tests.coordinator.programs import Program, program
from tests.coordinator.service import answer, eventually, make_engine, running_service

__all__ = ["Bench", "address_of", "fresh_server", "generation", "open_bench", "open_tiny"]


class _Registry(Actor):
    """Keeps what workers say."""

    def __init__(self, said: list[object]) -> None:
        self._said = said

    async def receive(self, message: object) -> None:
        self._said.append(message)


class Bench:
    """A worker on a bus of its own, and the coordinator that the test plays."""

    def __init__(self, server: MemoryServer, bus: Bus, worker: ActorRef, said: list[object]) -> None:
        self.server = server
        self.bus = bus
        self.worker = worker
        self.remote = RemoteRef(bus, "w1/worker", answers=Assigned)
        self.said = said
        self.deltas: list[TokenDelta] = []
        self.events: list[TaskEvent] = []
        self.num_stored: dict[str, int] = {}

    async def observe(self) -> None:
        """Keep what is published."""
        await self.bus.subscribe("pmq.*.stream.>", self._on_delta)
        await self.bus.subscribe("pmq.*.event.>", self._on_event)
        await self.bus.follow(STREAM_VARS, self._on_variable, after_sequence=0)

    async def _on_delta(self, delivery: Delivery) -> None:
        self.deltas.append(decode(delivery.payload, TokenDelta))

    async def _on_event(self, delivery: Delivery) -> None:
        self.events.append(decode(delivery.payload, TaskEvent))

    async def _on_variable(self, delivery: Delivery) -> None:
        variable = delivery.subject.rpartition(".")[2]
        self.num_stored[variable] = self.num_stored.get(variable, 0) + 1

    # -- what the coordinator says -----------------------------------------------------------------------------------

    async def assign(self, *prompts: str | BlobRef, first: int = 0, **settings: Any) -> Assigned:
        """Assign one generation for each prompt; they fill v0, v1, …"""
        generations = [generation(f"v{first + index}", [index], **settings) for index in range(len(prompts))]
        return await self.assign_batch(list(prompts), generations)

    async def assign_batch(self, segments: Sequence[str | BlobRef], generations: list[Generation]) -> Assigned:
        """Assign these."""
        assign = Assign(batch="b", segments=list(segments), generations=generations)
        answer: Assigned = await self.remote.ask(assign, timeout_s=5)
        return answer

    def tokens(self, variable: str, said: Sequence[object] | None = None) -> list[int]:
        """The tokens of an output as who hears the heartbeats knows them: behind a gap it knows nothing."""
        found: list[int] = []
        for status in self.said if said is None else said:
            for progress in status.progress if isinstance(status, WorkerStatus) else ():
                if progress.key == f"t.s.{variable}" and progress.begin <= len(found):
                    found[progress.begin :] = progress.output_ids
        return found

    # -- what the worker did -----------------------------------------------------------------------------------------

    @property
    def statuses(self) -> list[WorkerStatus]:
        """Its heartbeats."""
        return [message for message in self.said if isinstance(message, WorkerStatus)]

    @property
    def returned(self) -> list[GenerationsReturned]:
        """What it gave back."""
        return [message for message in self.said if isinstance(message, GenerationsReturned)]

    @property
    def states(self) -> list[str]:
        """How it said it is, without repetitions."""
        states: list[str] = []
        for status in self.statuses:
            if states[-1:] != [status.state]:
                states.append(status.state)
        return states

    async def value(self, variable: str) -> Value:
        """What it stored."""
        address = address_of(variable)

        async def is_stored() -> bool:
            return address in await get_values(self.bus, [address])

        await eventually(is_stored)
        return (await get_values(self.bus, [address]))[address]

    async def wait_idle(self) -> None:
        """Wait until it says that it runs nothing."""
        num_heard = len(self.statuses)
        await eventually(lambda: any(not status.running for status in self.statuses[num_heard:]))


def generation(variable: str, prompt: list[int], **settings: Any) -> Generation:
    return Generation(
        tenant="t",
        session="s",
        task="k",
        variable=variable,
        prompt=prompt,
        prefix_hashes=["h"] * len(prompt),
        **{"attempt": 1, "sampling": Sampling(max_tokens=10_000), "deadline": 1e12, **settings},
    )


def address_of(variable: str) -> VariableAddress:
    return VariableAddress(TenantId("t"), SessionId("s"), VariableId(variable))


@asynccontextmanager
async def open_bench(
    factory: Callable[[], Engine] | None = None,
    *,
    load: EngineFactory | None = None,
    board: WorkerBoard | None = None,
    bus: MemoryBus | None = None,
    **settings: Any,
) -> AsyncIterator[Bench]:
    """A worker with the engine that `factory` makes, or `load`, which reports its progress."""
    server = bus.server if bus is not None else MemoryServer()
    server.ensure_streams()
    config = WorkerConfig(
        model_path=Path("scripted"), worker_id=WorkerId("w1"), **{"heartbeat_s": 0.02, "drain_s": 0.1, **settings}
    )
    make = factory or (lambda: make_engine(answer, num_slots=4, tokens_per_step=5))
    worker_bus = bus or MemoryBus(server)
    said: list[object] = []
    async with (
        worker_bus,
        MemoryBus(server) as observer,
        ActorSystem("coordinator", bus=observer) as coordinator,
        ActorSystem("w1", bus=worker_bus) as system,
    ):
        accepts = WorkerStatus | GenerationsReturned
        await coordinator.spawn(lambda: _Registry(said), name="registry", accepts=accepts)
        worker = await system.spawn(
            lambda: WorkerActor(worker_bus, config, load or (lambda report: make()), board=board),
            name="worker",
            restart=RestartPolicy.TRANSIENT,
            accepts=WorkerMessage,
        )
        bench = Bench(server, observer, worker, said)
        await bench.observe()
        yield bench


@asynccontextmanager
async def open_tiny(**settings: Any) -> AsyncIterator[Program]:
    """A session of a service whose worker runs the tiny model."""
    config = WorkerConfig(model_path=checkpoint_path(), model_name="tiny", **settings)
    async with running_service(workers=()) as service, program(service) as opened:
        await service.add_worker(engine=partial(create_engine, config), model="tiny", num_slots=config.num_slots)
        yield opened


def fresh_server() -> MemoryServer:
    server = MemoryServer()
    server.ensure_streams()
    return server
