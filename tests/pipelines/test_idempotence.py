"""However often an event comes, and wherever the process that works on it is killed: one result, generated once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from parrot_mq.bus import Bus, Delivery, Settlement
from parrot_mq.bus.frames import MESSAGE_ID
from parrot_mq.client import Client
from parrot_mq.pipelines import PipelineRunner
from parrot_mq.testing import NetworkConditions, SimulatedService, run_simulation, simulated_service
from tests.coordinator.service import expected
from tests.pipelines.programs import make_pipeline

NETWORK = NetworkConditions(delay_s=0.02, jitter_s=0.02)


@dataclass
class _World:
    """What is published and what is generated."""

    published: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    generated: Counter[str] = field(default_factory=Counter)

    def answer(self, prompt: str) -> str:
        self.generated[prompt] += 1
        return expected(prompt)

    async def stand_for_a_stream(self, bus: Bus) -> None:
        """Acknowledge what is published for the results, as a stream does."""

        async def store(delivery: Delivery) -> None:
            known = self.published[delivery.headers[MESSAGE_ID]]
            known.append(delivery.payload)
            answer = {"stream": "RESULTS", "seq": 1, "duplicate": len(known) > 1}
            await bus.publish(delivery.reply, json.dumps(answer).encode())

        await bus.subscribe("results.chain", store)


def _event(number: int) -> Delivery:
    return Delivery("events.x", json.dumps({"id": number, "text": f"text {number}"}).encode(), sequence=number + 1)


async def _handle_and_be_killed(service: SimulatedService, client: Client, number: int, after_s: float) -> None:
    """Work on an event in a process whose connection is cut after a time."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(PipelineRunner(make_pipeline(), client).handle(_event(number)))
        await service.clock.sleep(after_s)
        client.bus.abort()
        task.cancel()
        await asyncio.wait([task])


async def _work(deliveries: list[tuple[int, float]], seed: int) -> _World:
    world = _World()
    async with (
        simulated_service(seed=seed, network=NETWORK, answer=world.answer) as service,
        service.connect() as bus,
    ):
        await world.stand_for_a_stream(bus)
        for number, after_s in deliveries:
            await _handle_and_be_killed(service, service.client(), number, after_s)
        runner = PipelineRunner(make_pipeline(), service.client())
        for number in {number for number, _ in deliveries}:
            for _ in range(2):
                assert await runner.handle(_event(number)) is Settlement.DONE
    return world


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1.5)), min_size=1, max_size=6), st.integers(0, 100))
def test_an_event_has_one_result_wherever_its_process_is_killed(deliveries: list[tuple[int, float]], seed: int) -> None:
    world = run_simulation(lambda: _work(deliveries, seed), seed=seed)
    numbers = {number for number, _ in deliveries}
    assert len(world.published) == len(numbers)
    for payloads in world.published.values():
        assert len(set(payloads)) == 1
    texts = {json.loads(payloads[0])["two"] for payloads in world.published.values()}
    assert texts == {expected(expected(f"text {number}.") + "!") for number in numbers}
    assert set(world.generated.values()) == {1}
    assert len(world.generated) == 2 * len(numbers)
