"""Serving with ours: the real coordinator, the real client, and simulated workers, on a bus in memory, in virtual time.

The client's connection to the bus has the network delay, half of it each way; coordinator and workers have none. All
sessions are open before the first program begins, as connections are in the baselines.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace

from benchmarks.workloads.functions import submit
from benchmarks.workloads.hardware import PAGE_SIZE
from benchmarks.workloads.metrics import Generated, Job
from benchmarks.workloads.programs import Call, Program
from benchmarks.workloads.scenarios import Scenario
from benchmarks.workloads.systems import System
from parrot_mq import Client, SemanticVariable, Session
from parrot_mq.bus import Bus, Delivery
from parrot_mq.coordinator import CoordinatorConfig, Mechanisms
from parrot_mq.messages import TaskEvent, decode, event_subject
from parrot_mq.tasks import task_group
from parrot_mq.testing import (
    NetworkConditions,
    SimulatedWorkerConfig,
    run_simulation,
    simulated_service,
)

__all__ = ["run_ours"]

_TIMEOUT_S = 86_400.0
_SETTLE_S = 5.0
"""Programs begin after this: by then the coordinator knows the workers."""


def run_ours(
    programs: tuple[Program, ...], scenario: Scenario, system: System, *, delay_s: float, num_slots: int
) -> list[Job]:
    """Serve programs, and tell when their clients had everything; arguments as for `run_baseline`."""
    return run_simulation(lambda: _serve(programs, scenario, system, delay_s, num_slots))


async def _serve(
    programs: tuple[Program, ...], scenario: Scenario, system: System, delay_s: float, num_slots: int
) -> list[Job]:
    mechanisms = system.mechanisms or Mechanisms()
    if not mechanisms.objectives:  # the engine does not know of them either
        programs = tuple(map(_without_targets, programs))
    workers = [
        SimulatedWorkerConfig(
            worker_id=f"worker-{index}",
            latency=scenario.hardware.latency,
            num_slots=num_slots,
            capacity_tokens=scenario.hardware.num_pages * PAGE_SIZE,
            prefix_cache=system.has_prefix_cache,
            cascade=system.has_cascade,
            tokens_per_delta=0,
            latency_tpot_ms=SimulatedWorkerConfig.latency_tpot_ms if mechanisms.objectives else 0.0,
        )
        for index in range(scenario.num_workers)
    ]
    config = CoordinatorConfig(mechanisms=mechanisms)
    async with simulated_service(coordinator=config, workers=workers) as service:
        watch = _Watch()
        async with service.connect() as bus:
            await watch.start(bus)
            client = service.client(network=NetworkConditions(delay_s=delay_s / 2))
            return await _run_all(client, programs, watch, is_by_client=system.is_by_client)


async def _run_all(client: Client, programs: tuple[Program, ...], watch: _Watch, *, is_by_client: bool) -> list[Job]:
    """Run programs, each in a session of its own, but for what runs in the background, which shares one."""
    run = _run_by_client if is_by_client else _run
    async with AsyncExitStack() as stack:
        others = await stack.enter_async_context(client.session(timeout_s=_TIMEOUT_S))
        sessions = {
            program.name: await stack.enter_async_context(client.session(timeout_s=_TIMEOUT_S))
            for program in programs
            if not program.is_background
        }
        await asyncio.sleep(_SETTLE_S)
        async with task_group() as group:
            background = group.create_task(_run_background(programs, others), name="background")
            jobs = {
                name: group.create_task(_time(program, run(program, sessions[name])), name=name)
                for program in programs
                if (name := program.name) in sessions
            }
            await asyncio.wait(jobs.values())
            background.cancel()
        return [
            Job(program.kind, program.num_output_tokens, *jobs[name].result(), watch.generated(sessions[name].name))
            for program in programs
            if (name := program.name) in jobs
        ]


def _without_targets(program: Program) -> Program:
    """The same where nothing is said of how soon tokens are wanted."""
    return replace(program, calls=tuple(replace(call, tpot_ms=None) for call in program.calls))


# -- programs ----------------------------------------------------------------------------------------------------------


async def _time(program: Program, run: Coroutine[None, None, None]) -> tuple[float, float]:
    """Run a program when it arrives; returns when it did, and when its client had everything."""
    time = asyncio.get_running_loop().time
    await asyncio.sleep(program.arrival_s)
    arrived_s = time()
    await run
    return arrived_s, time()


async def _run(program: Program, session: Session) -> None:
    """Submit the whole program, then wait for what nobody reads."""
    variables: dict[str, SemanticVariable] = {}
    for call in program.calls:
        variables[call.output] = submit(call, variables, session)
    await asyncio.gather(*(variables[output].get() for output in program.wanted()))


async def _run_by_client(program: Program, session: Session) -> None:
    """Submit each call when the client has what it reads, and pass in the texts."""
    values: dict[str, asyncio.Task[str]] = {}

    async def run(call: Call) -> str:
        texts = {output: await values[output] for output in call.reads}
        return await submit(call, texts, session).get()

    async with task_group() as group:
        for call in program.calls:
            values[call.output] = group.create_task(run(call), name=call.output)


async def _run_background(programs: tuple[Program, ...], session: Session) -> None:
    """Submit what nobody waits for, until it is cancelled."""
    time = asyncio.get_running_loop().time
    began_s = time()
    for program in programs:
        if program.is_background:
            await asyncio.sleep(began_s + program.arrival_s - time())
            for call in program.calls:
                submit(call, {}, session)


# -- what the workers did ----------------------------------------------------------------------------------------------


class _Watch:
    """Reads along when generations begin and end."""

    def __init__(self) -> None:
        self._began_s: dict[tuple[str, str], float] = {}
        self._generated: dict[str, list[Generated]] = defaultdict(list)

    async def start(self, bus: Bus) -> None:
        for kind in ("started", "finished"):
            await bus.subscribe(event_subject("default", "*", kind), self._note)

    async def _note(self, delivery: Delivery) -> None:
        session = delivery.subject.split(".")[3]
        event = decode(delivery.payload, TaskEvent)
        if event.kind == "started":
            self._began_s[session, event.variable] = event.at
        else:
            began_s = self._began_s.pop((session, event.variable))
            self._generated[session].append(Generated(event.num_output_tokens, began_s, event.at))

    def generated(self, session: str) -> tuple[Generated, ...]:
        """Of one session."""
        return tuple(self._generated[session])
