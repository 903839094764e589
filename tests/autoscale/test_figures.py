"""What the dispatcher says comes true: real coordinator and client, a worker in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from parrot_mq import Input, Output, semantic_function
from parrot_mq.actors import ActorSystem, RemoteRef
from parrot_mq.messages import REGISTRY_ADDRESS, ModelDemand, ServiceQuery, ServiceReport
from parrot_mq.tasks import task_group
from parrot_mq.testing import SimulatedService, SimulatedWorkerConfig, run_simulation, simulated_service
from parrot_mq.types import fresh_id

NUM_SLOTS = 8
MAX_TOKENS = 400
WORKERS = [SimulatedWorkerConfig(num_slots=NUM_SLOTS)]
WARM_UP = 100
"""Generations after which a dispatcher knows how long outputs are, and how fast the worker is."""


@semantic_function
def write(about: Input, text: Output = Output(max_tokens=MAX_TOKENS)) -> None:
    """Write about {{about}}: {{text}}"""


async def _demand(ref: RemoteRef) -> ModelDemand:
    report = await ref.ask(ServiceQuery(), timeout_s=5)
    assert isinstance(report, ServiceReport)
    (demand,) = report.demand
    return demand


async def _work(service: SimulatedService, name: str, num: int) -> None:
    async with service.client().session(fresh_id(name)) as session:
        texts = [write.using(session=session)(f"{name} {number}") for number in range(num)]
        await asyncio.gather(*(text.get(timeout_s=3000) for text in texts))


def test_speed_size_of_the_backlog_and_wait_are_what_they_turn_out_to_be() -> None:
    async def simulation() -> None:
        async with (
            simulated_service(workers=WORKERS) as service,
            service.connect() as bus,
            ActorSystem(fresh_id("test"), bus=bus, clock=service.clock) as system,
        ):
            registry = system.remote(REGISTRY_ADDRESS, answers=ServiceReport)
            await _work(service, "before", WARM_UP)
            async with task_group() as group:
                group.create_task(_work(service, "main", 200), name="main")
                await service.clock.sleep(5.0)
                before, began_at = await _demand(registry), service.clock.monotonic()
                await _work(service, "probe", 1)
                probe_s = service.clock.monotonic() - began_at
                after = await _demand(registry)
            took_s = service.clock.monotonic() - began_at

        (rate,) = before.workers
        seconds = [
            work.num_prefill_tokens / rate.prefill_tokens_per_s + work.num_output_tokens / rate.output_tokens_per_s
            for work in (before.latency_ready, before.latency_running)
        ]
        num_tokens = after.finished.num_output_tokens - before.finished.num_output_tokens
        assert rate.num_full == NUM_SLOTS
        assert rate.output_tokens_per_s == pytest.approx(num_tokens / probe_s, rel=0.1)
        assert sum(seconds) == pytest.approx(took_s, rel=0.1)
        assert before.predicted_wait_s is not None
        own_s = MAX_TOKENS / 2 * NUM_SLOTS / rate.output_tokens_per_s  # the mean output has half of it
        assert before.predicted_wait_s == pytest.approx(probe_s - own_s, rel=0.1)

    run_simulation(simulation, seed=1)
