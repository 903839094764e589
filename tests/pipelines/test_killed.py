"""A pipeline whose process is killed again and again loses no event and publishes no result twice."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from parrot_mq.bus import BusConfig, Delivery, open_bus
from tests.coordinator.service import eventually, expected
from tests.pipelines.programs import EVENTS, RESULTS
from tests.pipelines.service import PipelineService, pipeline_service

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NUM_EVENTS, NUM_KILLS = 10_000, 5


async def _start(service: PipelineService) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "parrot_mq", "pipeline", "run", "tests.pipelines.programs:echo",
        "--servers", service.url, "--log-level", "warning", cwd=ROOT,
    )  # fmt: skip


async def _publish(service: PipelineService) -> None:
    """Publish as a plain client does; each hundredth event is published twice."""
    limit = asyncio.Semaphore(64)
    async with open_bus(BusConfig(servers=(service.url,))) as bus, asyncio.TaskGroup() as group:

        async def publish(number: int) -> None:
            event = json.dumps({"id": f"event-{number}", "text": f"text {number}"}).encode()
            await bus.request("events.echo", event, timeout_s=20)
            limit.release()

        for number in [*range(NUM_EVENTS), *range(0, NUM_EVENTS, 100)]:
            await limit.acquire()
            group.create_task(publish(number))


class _Results:
    """What a plain client reads from the stream of results."""

    def __init__(self) -> None:
        self.found: list[Delivery] = []

    async def keep(self, delivery: Delivery) -> None:
        self.found.append(delivery)

    async def wait_number(self, number: int) -> None:
        await eventually(lambda: len(self.found) >= number, within_s=100)


async def _kill_again_and_again(service: PipelineService, results: _Results) -> asyncio.subprocess.Process:
    """Kill and restart the process whenever another part of the results is there; returns the last one."""
    process = await _start(service)
    for number in range(1, NUM_KILLS + 1):
        await results.wait_number(NUM_EVENTS * number // (NUM_KILLS + 2))
        process.kill()
        await process.wait()
        process = await _start(service)
    return process


@pytest.mark.timeout(180)
async def test_killed_five_times_each_of_ten_thousand_events_has_one_right_result() -> None:
    results = _Results()
    async with pipeline_service() as service:
        await service.add_stream(EVENTS, "events.>")
        await service.add_stream(RESULTS, "results.>")
        await service.bus.follow(RESULTS, results.keep, after_sequence=0)
        publishing = service.group.create_task(_publish(service))
        process = await _kill_again_and_again(service, results)
        await publishing
        await results.wait_number(NUM_EVENTS)

        async def is_settled() -> bool:
            return await service.num_unsettled(EVENTS, "echo") == 0

        await eventually(is_settled)
        process.terminate()
        await process.wait()
        assert await service.num_stored(RESULTS) == NUM_EVENTS
    found = {result.headers["ce-id"]: json.loads(result.payload) for result in results.found}
    assert found == {f"event-{n}": {"one": expected(f"text {n}.")} for n in range(NUM_EVENTS)}
