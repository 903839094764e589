"""Random programs on a service whose parts die at random: every variable ends as plain Python says it may."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from parrot_mq.bus import Delivery
from parrot_mq.coordinator import CoordinatorConfig
from parrot_mq.errors import ParrotError, TransportError
from tests.coordinator.native_hosts import Host, Running
from tests.coordinator.programs import Program, program
from tests.coordinator.random_programs import FUNCTIONS, RandomProgram, answer_of, describe
from tests.coordinator.service import Service, answer, eventually, make_engine, running_service

CONFIG = CoordinatorConfig(
    lease_s=0.2, settle_s=0.02, model_grace_s=60, assign_timeout_s=0.2, max_attempts=1_000, session_idle_s=0.3
)
NUM_SEEDS = 36
_LOSSY = ("pmq-sys.", "_INBOX", "pmq.default.call.")


@pytest.mark.parametrize("seed", range(NUM_SEEDS))
async def test_every_variable_of_a_random_program_ends_as_it_must(seed: int) -> None:
    rng = random.Random(seed)
    random_program = RandomProgram.make(rng)
    is_lossy = seed % 2 == 0
    async with running_service(CONFIG, workers=()) as service, program(service) as run:
        for name in ("w0", "w1"):
            await _add_worker(service, name)
        hosts = [await _add_host(service, name, rng) for name in ("h0", "h1")]
        if is_lossy:
            service.server.fault = _lossy(random.Random(seed))
        chaos = service.group.create_task(_disturb(service, random.Random(seed)))
        await _submit(run, random_program, rng)
        outcomes = {name: await _outcome(run, name) for name in random_program.possible_outcomes()}
        await chaos
        await eventually(service.is_all_done)
        for host in hosts:
            await host.vanish()
        _check(random_program, outcomes)
        assert set(service.num_stored.values()) == {1}, "every variable was stored once"
        assert {dead.reason.code for dead in await service.dead()} <= {"function_failed"}


def _check(random_program: RandomProgram, outcomes: dict[str, str | ParrotError]) -> None:
    for name, possible in random_program.possible_outcomes().items():
        assert describe(outcomes[name]) in possible, (name, outcomes[name])
        if isinstance(outcomes[name], str):
            assert outcomes[name] == random_program.texts[name]


async def _outcome(run: Program, variable: str) -> str | ParrotError:
    try:
        return await run.get(variable, 25)
    except ParrotError as error:
        return error


# -- what the program does -------------------------------------------------------------------------------------------


async def _submit(run: Program, random_program: RandomProgram, rng: random.Random) -> None:
    """Publish tasks and inputs in random order, and cancel some."""
    steps: list[tuple[str, str]] = [("task", name) for name in random_program.tasks]
    steps += [("set", name) for name in random_program.inputs]
    rng.shuffle(steps)
    for variable in random_program.cancelled:
        steps.insert(rng.randint(0, len(steps)), ("cancel", variable))
    for kind, name in steps:
        match kind:
            case "task":
                await run.submit(random_program.tasks[name], name=name)
            case "set":
                await run.session.set(name, random_program.inputs[name])
            case "cancel":
                await _cancel(run, name)
        if rng.random() < 0.3:
            await asyncio.sleep(rng.uniform(0, 0.01))


async def _cancel(run: Program, variable: str) -> None:
    try:
        async with asyncio.timeout(0.5):
            await run.session.cancel(variable)
    except (TransportError, TimeoutError):
        return  # the coordinator or the server is away: it may or may not have been heard


# -- what the world does ---------------------------------------------------------------------------------------------


async def _add_worker(service: Service, name: str) -> None:
    await service.add_worker(
        name,
        engine=lambda: make_engine(answer, num_slots=6, tokens_per_step=3, step_s=0.001),
        num_slots=6,
        heartbeat_s=0.04,
    )


async def _add_host(service: Service, name: str, rng: random.Random) -> Host:
    """A host that has no room now and then, runs for a while, sends beats or not, and may fail or fall silent twice."""

    async def serve(run: Running) -> None:
        call, fate = run.call, rng.random()
        if fate < 0.1:
            await run.refuse()
            return
        if fate < 0.4:
            await run.beat(0.1)
        await asyncio.sleep(rng.uniform(0, 0.02))
        if call.function == "bad":
            await run.fail("on purpose", retryable=False)
        elif call.function == "flaky" and call.attempt <= 2 and rng.random() < 0.3:
            await run.fail("now and then", retryable=True)
        elif call.attempt > 2 or rng.random() < 0.97:
            arguments = {name: str(value) for name, value in call.arguments.items()}
            await run.answer(answer_of(call.function, arguments, call.outputs))

    host = Host(service.bus, service.group, serve, name=name)
    await host.serve(*FUNCTIONS)
    return host


def _lossy(rng: random.Random) -> Callable[[Delivery], list[float]]:
    """Lose, double and delay some of what coordinators, workers and hosts tell each other."""
    fates: list[list[float]] = [[0.0]] * 30 + [[], [0.0, 0.0], [0.01], [0.0, 0.02]]
    return lambda message: rng.choice(fates) if message.subject.startswith(_LOSSY) else [0.0]


async def _disturb(service: Service, rng: random.Random) -> None:
    """Kill, stop and start coordinators and workers; in the end there are two workers and a coordinator."""
    for number in range(rng.randint(2, 8)):
        await asyncio.sleep(rng.uniform(0, 0.08))
        match rng.choice(["worker", "worker", "coordinator", "takeover", "server"]):
            case "worker":
                name = rng.choice(sorted(service.workers))
                worker = service.workers.pop(name)
                await (worker.kill() if rng.random() < 0.7 else worker.stop())
                await _add_worker(service, name if rng.random() < 0.5 else f"new{number}")
            case "coordinator":
                old = service.coordinators.pop()
                await (old.kill() if rng.random() < 0.7 else old.stop())
                await asyncio.sleep(rng.uniform(0, 0.03))
                await service.add_coordinator(CONFIG)
            case "server":
                service.server.go_down()
                await asyncio.sleep(rng.uniform(0, 0.3))
                service.server.come_up()
            case "takeover":
                old = service.coordinators.pop()
                await service.add_coordinator(CONFIG)
                await asyncio.sleep(rng.uniform(0, 0.03))
                await (old.kill() if rng.random() < 0.5 else old.stop())
