"""Test programs without a model or a server: a worker that answers by a function, and a whole service in memory.

Example:
    >>> async def main() -> None:
    ...     async with local_service(lambda request: request.text.upper()) as client, client.session():
    ...         print(await shout(text="parrots"))
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from parrot_mq.actors import ActorRef, ActorSystem, RestartPolicy
from parrot_mq.bus import Bus, MemoryBus, MemoryServer
from parrot_mq.client import Client
from parrot_mq.coordinator import CoordinatorConfig, open_coordinator
from parrot_mq.messages import WorkerMessage
from parrot_mq.types import WorkerId, fresh_id
from parrot_workers.config import WorkerConfig
from parrot_workers.engine import Engine, GenerationRequest, ScriptedEngine
from parrot_workers.worker import WorkerActor

__all__ = ["local_service", "scripted_worker"]

Answer = Callable[[GenerationRequest], str]
"""Writes the text for a request; called in the engine's thread."""


@asynccontextmanager
async def scripted_worker(
    bus: Bus,
    answer: Answer,
    *,
    model: str = "scripted",
    name: str = "",
    num_slots: int = 64,
    tokens_per_step: int = 1_000,
    heartbeat_s: float = 1.0,
    drain_s: float = 30.0,
    engine: Callable[[], Engine] | None = None,
) -> AsyncIterator[ActorRef]:
    """A worker with everything real but the model, for the length of a block.

    Args:
        engine: Makes the engine, instead of a `ScriptedEngine` of `answer`.
    """
    worker_id = WorkerId(name or fresh_id("worker"))
    config = WorkerConfig(
        model_path=Path(model),
        model_name=model,
        worker_id=worker_id,
        num_slots=num_slots,
        heartbeat_s=heartbeat_s,
        drain_s=drain_s,
    )
    make = engine or (lambda: ScriptedEngine(answer, num_slots=num_slots, tokens_per_step=tokens_per_step))
    async with ActorSystem(worker_id, bus=bus) as system:
        yield await system.spawn(
            lambda: WorkerActor(bus, config, lambda report: make()),
            name="worker",
            restart=RestartPolicy.TRANSIENT,
            accepts=WorkerMessage,
        )


@asynccontextmanager
async def local_service(
    answer: Answer, *, model: str = "scripted", config: CoordinatorConfig | None = None
) -> AsyncIterator[Client]:
    """Server, coordinator and worker in this process and in memory; gives a client of it."""
    server = MemoryServer()
    async with (
        MemoryBus(server) as coordinator_bus,
        MemoryBus(server) as worker_bus,
        MemoryBus(server) as client_bus,
        open_coordinator(coordinator_bus, config or CoordinatorConfig(settle_s=0, model_grace_s=0.1)),
        scripted_worker(worker_bus, answer, model=model),
    ):
        yield Client(client_bus)
