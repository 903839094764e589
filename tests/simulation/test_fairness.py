"""No tenant starves, whatever the others do; weights and quotas hold."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from parrot_mq import Input, Output, semantic_function
from parrot_mq.bus import Delivery
from parrot_mq.coordinator import CoordinatorConfig, TenantPolicy, Tenants
from parrot_mq.testing import (
    LatencyModel,
    SimulatedService,
    SimulatedWorkerConfig,
    run_simulation,
    simulated_service,
)

MODEL = LatencyModel(base_s=0.02, prefill_s=1e-4)
NUM_SLOTS = 8
NUM_SHARED = 3 * 7 * 8
"""Tasks of three rounds: in a round, a tenant of weight 1 has its turn for some 8 of them."""


@semantic_function
def write(about: Input, text: Output = Output(max_tokens=20, ignore_eos=True)) -> None:
    """Write about {{about}}: {{text}}"""


@dataclass(slots=True)
class Course:
    """When what was stored, by tenant."""

    service: SimulatedService
    ends: dict[str, list[float]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)

    async def note(self, delivery: Delivery) -> None:
        """A value of some tenant is there."""
        tenant = delivery.subject.split(".")[1]
        self.ends.setdefault(tenant, []).append(self.service.clock.monotonic())
        self.order.append(tenant)


async def _flood(service: SimulatedService, tenant: str, num_tasks: int, *, rng: random.Random) -> None:
    """Many tasks of some 500 tokens at once, and wait for all of them."""
    async with service.client(tenant).session("flood") as session:
        variables = [
            write.using(session=session)(f"{rng.random()} {'x' * rng.randint(1600, 2400)}") for _ in range(num_tasks)
        ]
        await asyncio.gather(*(variable.get() for variable in variables))


def _worker() -> SimulatedWorkerConfig:
    return SimulatedWorkerConfig(worker_id="worker", latency=MODEL, num_slots=NUM_SLOTS, capacity_tokens=20_000)


@pytest.mark.parametrize("seed", range(10))
def test_a_small_tenant_does_not_wait_for_a_large_one(seed: int) -> None:
    rng = random.Random(seed)
    waits: list[float] = []

    async def main() -> None:
        async with simulated_service(seed=seed, workers=[_worker()]) as service, asyncio.TaskGroup() as group:
            group.create_task(_flood(service, "large", 150, rng=rng))
            await asyncio.sleep(1)
            async with service.client("small").session("chat") as session:
                for number in range(5):
                    began_at = service.clock.monotonic()
                    await write.using(session=session)(f"turn {number}")
                    waits.append(service.clock.monotonic() - began_at)

    run_simulation(main, seed=seed)
    batch_s = NUM_SLOTS * 520 * MODEL.prefill_s + 20 * MODEL.base_s
    assert max(waits) < 3.5 * batch_s, "at most what runs, and the large tenant's turn, come before it"


@pytest.mark.parametrize("seed", range(5))
def test_weights_share_the_tokens(seed: int) -> None:
    weights = {"one": 1.0, "two": 2.0, "four": 4.0}
    policies = {tenant: TenantPolicy(weight=weight) for tenant, weight in weights.items()}
    config = CoordinatorConfig(tenants=Tenants(policies))
    rng = random.Random(seed)
    shares: Counter[str] = Counter()

    async def main() -> None:
        async with simulated_service(seed=seed, coordinator=config, workers=[_worker()]) as service:
            course = Course(service)
            async with service.connect() as bus:
                await bus.subscribe("pmq.*.set.flood.>", course.note)
                async with asyncio.TaskGroup() as group:
                    for tenant in weights:
                        group.create_task(_flood(service, tenant, 110, rng=rng))
            shares.update(course.order[:NUM_SHARED])

    run_simulation(main, seed=seed)
    for tenant, weight in weights.items():
        assert shares[tenant] / NUM_SHARED == pytest.approx(weight / 7, abs=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_a_quota_on_running_work_is_kept(seed: int) -> None:
    config = CoordinatorConfig(tenants=Tenants({"large": TenantPolicy(max_running=3)}))
    rng = random.Random(seed)
    running: list[int] = []

    async def main() -> None:
        async with (
            simulated_service(seed=seed, coordinator=config, workers=[_worker()]) as service,
            asyncio.TaskGroup() as group,
        ):
            flood = group.create_task(_flood(service, "large", 60, rng=rng))
            while not flood.done():
                running.append(service.workers["worker"].thing.engine.num_running)
                await service.clock.sleep(0.05)

    run_simulation(main, seed=seed)
    assert max(running) == 3
