"""An autoscaler among crashes, restarts and operators, by seed: the work is done, and nobody's worker is taken away."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from parrot_mq.actors import ActorSystem
from parrot_mq.autoscale import PolicyConfig
from parrot_mq.autoscale.autoscaler import AutoscalerActor
from parrot_mq.autoscale.memory import MemoryFile
from parrot_mq.autoscale.settings import AutoscalerConfig, ModelSettings
from parrot_mq.bus import Bus
from parrot_mq.coordinator import CoordinatorConfig
from parrot_mq.tasks import task_group
from parrot_mq.testing import NetworkConditions, SimulatedService, run_simulation, simulated_service
from parrot_mq.types import fresh_id
from tests.autoscale.simulated_units import SimulatedUnits
from tests.autoscale.test_autoscaler import write

NUM_SLOTS = 4
NAMES = tuple(f"parrot-worker@{slot}.service" for slot in range(NUM_SLOTS))
POLICY = PolicyConfig(down_window_s=40, down_step_s=5, min_uptime_s=10, idle_to_zero_s=40)
CONFIG = AutoscalerConfig(models={"simulated": ModelSettings(slots=tuple(range(NUM_SLOTS)), policy=POLICY)})
TROUBLE_S = 300.0


class Chaos:
    """What happens to one service for a while."""

    def __init__(self, service: SimulatedService, units: SimulatedUnits, rng: random.Random, path: Path) -> None:
        self.service = service
        self.units = units
        self.rng = rng
        self.path = path
        self.is_over = False
        self.kill = asyncio.Event()

    async def autoscalers(self) -> None:
        """One after the other; each is killed, and the next begins with what is in the file."""
        while True:
            self.kill.clear()
            bus = self.service.connect()
            with MemoryFile(self.path) as file:

                def make(bus: Bus = bus, file: MemoryFile = file) -> AutoscalerActor:
                    return AutoscalerActor(bus, self.units, CONFIG, name="host-a", file=file)

                async with bus, ActorSystem(fresh_id("autoscaler"), bus=bus, clock=self.service.clock) as system:
                    await system.spawn(make, name="autoscaler")
                    await self.kill.wait()
                    bus.abort()

    async def trouble(self) -> None:
        """Something every few seconds."""
        end = self.service.clock.monotonic() + TROUBLE_S
        while self.service.clock.monotonic() < end:
            await self.service.clock.sleep(self.rng.uniform(2, 20))
            await self.rng.choice(
                [self._crash, self._kill_autoscaler, self._restart_coordinator, self._toggle_systemd, self._break_slot]
            )()
        self.units.is_away = False
        self.units.broken.clear()

    async def _crash(self) -> None:
        if self.units.running:
            await self.units.crash(self.rng.choice(self.units.running))

    async def _kill_autoscaler(self) -> None:
        self.kill.set()

    async def _restart_coordinator(self) -> None:
        await self.service.coordinators[-1].kill()
        await self.service.start_coordinator(CoordinatorConfig(settle_s=0.1, model_grace_s=600.0, max_attempts=100))

    async def _toggle_systemd(self) -> None:
        self.units.is_away = not self.units.is_away

    async def _break_slot(self) -> None:
        name = self.rng.choice(NAMES)
        self.units.broken ^= {name}

    async def work(self) -> None:
        """Some tasks every now and then."""
        while not self.is_over:
            async with self.service.client().session(fresh_id("work")) as session:
                number = self.rng.choice([1, 5, 60])
                texts = [write.using(session=session)(f"subject {index}") for index in range(number)]
                assert all(await asyncio.gather(*(text.get(timeout_s=6000) for text in texts)))
            await self.service.clock.sleep(self.rng.uniform(1, 90))


@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_the_work_is_done_and_nothing_of_others_is_stopped(seed: int, tmp_path: Path) -> None:
    async def run() -> None:
        rng = random.Random(seed)
        config = CoordinatorConfig(settle_s=0.1, model_grace_s=600.0, max_attempts=100)
        network = NetworkConditions(drop=0.02) if seed % 2 else None
        async with (
            simulated_service(seed=seed, network=network, coordinator=config, workers=()) as service,
            task_group() as group,
        ):
            units = SimulatedUnits(service, group, load_s=8.0)
            chaos = Chaos(service, units, rng, tmp_path / "autoscaler.json")
            others = set(rng.sample(NAMES, rng.choice([0, 1])))
            for name in others:
                units.begin(name)
            scaling = group.create_task(chaos.autoscalers(), name="autoscalers")
            work = group.create_task(chaos.work(), name="work")
            await chaos.trouble()
            chaos.is_over = True
            await work
            async with asyncio.timeout(3600):
                while not set(units.running) <= others:
                    await service.clock.sleep(1)
            assert not units.robbed
            scaling.cancel()
            await units.stop_all()

    run_simulation(run, seed=seed)
