"""A service to which bad things happen, by a seed, and what has to hold of it all the time and in the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from parrot_mq.client import Client
from parrot_mq.coordinator import CoordinatorConfig, TenantPolicy, Tenants
from parrot_mq.messages import STREAM_DEAD, STREAM_TASKS, STREAM_VARS, decode_value, variable_subject
from parrot_mq.tasks import task_group
from parrot_mq.testing import (
    LatencyModel,
    NetworkConditions,
    SimulatedProcess,
    SimulatedService,
    SimulatedWorkerConfig,
    simulated_service,
)
from tests.simulation.programs import RandomProgram, Written, answer, describe, outcome_of

__all__ = ["World", "open_world"]

SLOW = LatencyModel(base_s=0.1, read_s=1e-5, prefill_s=1e-3)
PATIENT = CoordinatorConfig(settle_s=0.1, model_grace_s=600.0, max_attempts=100)
"""No model and no generation is given up, however often workers are lost."""
LONGEST_S = 300.0
"""Longer than any program may take from the moment on at which nothing more happens to it."""


@dataclass(slots=True)
class World:
    """One service, and the programs that run on it."""

    service: SimulatedService
    rng: random.Random
    config: CoordinatorConfig
    programs: list[RandomProgram] = field(default_factory=list)
    happened: list[str] = field(default_factory=list)
    """What was done to the service, in order."""
    num_workers: int = 0

    # -- what happens ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Let programs run and bad things happen; returns when all programs have ended."""
        async with task_group() as group:
            group.create_task(self._be_bad(), name="chaos")
            for program in self.programs:
                group.create_task(self._run(program), name=f"program-{program.session.name}")

    async def _run(self, program: RandomProgram) -> None:
        await program.run()
        async with asyncio.timeout(LONGEST_S), task_group() as group:
            for written in program.written:
                group.create_task(self._check_outcome(written), name=f"wait-{written.variable.id}")

    async def _check_outcome(self, written: Written) -> None:
        outcome = await outcome_of(written)
        end = describe(outcome)
        assert end in written.may_end, f"{written.variable!r} ended as {outcome!r}; it may end as {written.may_end}"
        assert outcome == written.text or not isinstance(outcome, str), f"{written.variable!r} holds another text"
        session = written.variable.session
        stored = self.service.server.streams[STREAM_VARS].last(
            variable_subject(session.tenant, session.name, written.variable.id)
        )
        assert stored is not None, f"{written.variable!r} ended for its reader only"
        value = decode_value(stored.payload, stored.headers)
        assert isinstance(value, str) == isinstance(outcome, str)
        for index, item in enumerate(written.items or () if isinstance(outcome, str) else ()):
            assert await written.variable.as_list().item(index) == item

    async def _be_bad(self) -> None:
        deeds = [
            self._kill_worker,
            self._drain_worker,
            self._pause_worker,
            self._cut_link,
            self._kill_coordinator,
            self._take_over,
        ]
        for _ in range(self.rng.randint(2, 10)):
            await asyncio.sleep(self.rng.uniform(0, 4))
            await self.rng.choice(deeds)()
        await self._heal()

    async def add_worker(self, name: str = "") -> None:
        """One more worker, small enough to be short of pages at times; perhaps one that was there before."""
        self.num_workers += not name
        config = SimulatedWorkerConfig(
            worker_id=name or f"worker-{self.num_workers}",
            latency=SLOW,
            num_slots=self.rng.choice([1, 2, 4, 8]),
            capacity_tokens=self.rng.choice([800, 2_000, 10_000]),
            max_step_tokens=self.rng.choice([32, 256]),
            prefix_cache=self.rng.random() < 0.9,
            heartbeat_s=self.rng.choice([0.3, 1.0]),
            drain_s=self.rng.choice([0.1, 5.0]),
        )
        await self.service.start_worker(config, answer=answer)

    async def _kill_worker(self) -> None:
        if worker := self._some_worker():
            self._note(f"kill {worker}")
            await self.service.workers[worker].kill()
            await asyncio.sleep(self.rng.uniform(0, 4))
            await self.add_worker(worker if self.rng.random() < 0.5 else "")

    async def _drain_worker(self) -> None:
        if worker := self._some_worker():
            self._note(f"drain {worker}")
            process = self.service.workers[worker]
            process.thing.resume()
            await process.thing.drain()
            await process.stop()
            await self.add_worker()

    async def _pause_worker(self) -> None:
        if worker := self._some_worker():
            self._note(f"pause {worker}")
            self.service.workers[worker].thing.pause()
            await asyncio.sleep(self.rng.uniform(0.1, 6))
            self.service.workers[worker].thing.resume()

    async def _cut_link(self) -> None:
        service = self.service
        processes: list[SimulatedProcess[Any]] = [*service.workers.values(), *service.coordinators]
        processes += service.candidates
        ways = [(each.cut, each.mend) for each in processes if each.is_running]
        ways += [(each.link.cut, each.link.mend) for each in self.programs]
        self._note("cut a link")
        cut, mend = self.rng.choice(ways)
        cut()
        await asyncio.sleep(self.rng.uniform(0.05, 5))
        mend()

    async def _kill_coordinator(self) -> None:
        service = self.service
        if service.candidates:
            running = [each for each in service.candidates if each.is_running]
            leading = [each for each in running if each.thing.leads]
            victim = self.rng.choice(leading or running)
            self._note(f"kill {victim.name}")
            await victim.kill()
            await asyncio.sleep(self.rng.choice([0.0, 1.0, 4.0]))
            await service.start_candidate(self.config)
        else:
            self._note("kill the coordinator")
            await service.coordinators[-1].kill()
            await asyncio.sleep(self.rng.uniform(0, 3))
            await service.start_coordinator(self.config)

    async def _take_over(self) -> None:
        self._note("take over")
        service = self.service
        if service.candidates:
            running = [each for each in service.candidates if each.is_running]
            await self.rng.choice(running).stop()
            await service.start_candidate(self.config)
            return
        former = service.coordinators[-1]
        await service.start_coordinator(self.config)
        if self.rng.random() < 0.5:
            await former.kill()
        else:
            await former.stop()

    async def _heal(self) -> None:
        self._note("no more harm")
        if not self._some_worker():
            await self.add_worker()

    def _some_worker(self) -> str:
        """A worker that runs; empty if none does."""
        running = [name for name, process in self.service.workers.items() if process.is_running]
        return self.rng.choice(running) if running else ""

    def _note(self, what: str) -> None:
        self.happened.append(f"{self.service.clock.monotonic():.3f} s: {what}")

    # -- what holds --------------------------------------------------------------------------------------------------

    async def check_end(self) -> None:
        """Everything that was accepted has ended; nobody keeps anything of it."""
        streams = self.service.server.streams
        async with asyncio.timeout(60):
            while streams[STREAM_TASKS].holds("pmq.*.task.>") or any(self._engines_at_work()):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert not streams[STREAM_DEAD].holds("pmq.*.dead.>"), "no task was given up"
        for process in self.service.workers.values():
            assert process.thing.num_failures == 0
            process.thing.engine.check_integrity()

    def _engines_at_work(self) -> Iterator[bool]:
        for process in self.service.workers.values():
            if process.is_running:
                yield process.thing.engine.num_running + process.thing.engine.num_waiting > 0


@asynccontextmanager
async def open_world(seed: int) -> AsyncIterator[World]:
    """A world with one to three workers and one to four programs of one to three tenants."""
    rng = random.Random(seed)
    network = NetworkConditions(
        delay_s=rng.choice([0.0, 0.001, 0.05]),
        jitter_s=rng.choice([0.0, 0.01]),
        drop=rng.choice([0.0, 0.02, 0.1, 0.3]),
        duplicate=rng.choice([0.0, 0.02, 0.1, 0.3]),
    )
    tenants = [f"tenant-{number}" for number in range(rng.randint(1, 3))]
    config = replace(PATIENT, tenants=Tenants({tenant: _policy(rng) for tenant in tenants}))
    num_candidates = rng.choice([0, 1, 2, 3])
    async with simulated_service(
        seed=seed, network=network, coordinator=config, num_candidates=num_candidates, workers=[]
    ) as service:
        service.network.is_calm = True
        world = World(service, rng, config)
        for _ in range(rng.randint(1, 3)):
            await world.add_worker()
        sessions = [(rng.choice(tenants), f"session-{number}") for number in range(rng.randint(1, 4))]
        async with _sessions(world, sessions):
            service.network.is_calm = False
            yield world
            await world.check_end()


def _policy(rng: random.Random) -> TenantPolicy:
    return TenantPolicy(
        weight=rng.choice([0.5, 1.0, 4.0]),
        max_unfinished=rng.choice([8, 100_000, 100_000]),
        max_running=rng.choice([0, 0, 1, 3]),
        cache_group=rng.choice(["", "company"]),
    )


@asynccontextmanager
async def _sessions(world: World, sessions: list[tuple[str, str]]) -> AsyncIterator[None]:
    if not sessions:
        yield
        return
    (tenant, name), *others = sessions
    bus = world.service.connect()
    async with bus, Client(bus, tenant=tenant).session(name) as session:
        rng = random.Random(world.rng.random())
        has_quota = world.config.tenants.policy(tenant).max_unfinished < 100
        world.programs.append(RandomProgram(session, rng, rng.randint(5, 25), link=bus.link, has_quota=has_quota))
        async with _sessions(world, others):
            yield
