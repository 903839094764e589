"""A service on a real server with a scripted worker, streams for events and results, and what a plain client sees."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from parrot_workers.testing import scripted_worker

from parrot_mq.bus import Bus, BusConfig, Delivery, NatsServer, open_bus
from parrot_mq.client import Client
from parrot_mq.coordinator import open_coordinator
from parrot_mq.pipelines import Pipeline, PipelineRunner, PipelineStatistics
from parrot_mq.tasks import task_group
from tests.coordinator.service import FAST, answer, eventually

__all__ = ["PipelineService", "pipeline_service"]


@dataclass
class PipelineService:
    """What a test has.

    Attributes:
        url: Address of the server.
        bus: A connection of the test's own.
        group: Where a test's own tasks run.
    """

    url: str
    bus: Bus
    group: asyncio.TaskGroup

    async def add_stream(self, name: str, subject: str) -> None:
        """Make a stream in memory."""
        await self.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": [subject], "storage": "memory"})

    async def api(self, operation: str, body: object = None) -> dict[str, Any]:
        """Ask the server."""
        payload = b"" if body is None else json.dumps(body).encode()
        reply = await self.bus.request(f"$JS.API.{operation}", payload, timeout_s=5)
        answered: dict[str, Any] = json.loads(reply.payload)
        assert "error" not in answered, answered
        return answered

    async def num_stored(self, stream: str) -> int:
        """How many messages a stream holds."""
        found: int = (await self.api(f"STREAM.INFO.{stream}"))["state"]["messages"]
        return found

    async def num_unsettled(self, stream: str, pipeline: str) -> int:
        """How many events a pipeline has not settled."""
        info = await self.api(f"CONSUMER.INFO.{stream}.pipeline-{pipeline}")
        return int(info["num_pending"]) + int(info["num_ack_pending"])

    async def publish(self, subject: str, events: Iterable[object]) -> None:
        """Publish events as a plain client does."""
        for event in events:
            await self.bus.request(subject, json.dumps(event).encode(), timeout_s=5)

    async def stored(self, stream: str) -> list[Delivery]:
        """What a stream holds."""
        found: list[Delivery] = []
        num_messages = await self.num_stored(stream)

        async def keep(delivery: Delivery) -> None:
            found.append(delivery)

        subscription = await self.bus.follow(stream, keep, after_sequence=0)
        await eventually(lambda: len(found) >= num_messages)
        await subscription.aclose()
        return found

    @asynccontextmanager
    async def running(self, pipeline: Pipeline) -> AsyncIterator[PipelineRunner]:
        """A process of a pipeline, on a connection of its own, for the length of a block; then it stops in order."""
        stop = asyncio.Event()
        async with open_bus(BusConfig(servers=(self.url,))) as bus, task_group() as group:
            runner = PipelineRunner(pipeline, Client(bus))
            group.create_task(runner.run(stop))
            try:
                yield runner
            finally:
                stop.set()

    async def replay(self, pipeline: Pipeline) -> PipelineStatistics:
        """Work once more on what was given up."""
        async with open_bus(BusConfig(servers=(self.url,))) as bus:
            return await PipelineRunner(pipeline, Client(bus)).replay()


@asynccontextmanager
async def pipeline_service(*extra_config: str) -> AsyncIterator[PipelineService]:
    """Server (with further lines of configuration), coordinator and worker for the length of a block."""
    async with NatsServer(extra_config=extra_config) as server:
        config = BusConfig(servers=(server.url,))
        async with (
            open_bus(config) as coordinator_bus,
            open_bus(config) as worker_bus,
            open_coordinator(coordinator_bus, FAST),
            scripted_worker(worker_bus, answer, num_slots=256, heartbeat_s=0.2),
            open_bus(config) as bus,
            task_group() as group,
        ):
            yield PipelineService(server.url, bus, group)
