"""Actors that crash, stop and start at random: every ask ends, and nothing is left."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from parrot_mq.actors import Actor, ActorSystem, ChildSpec, RestartPolicy, Strategy, Supervision, Supervisor
from parrot_mq.errors import (
    ActorFailed,
    ActorNameTaken,
    ActorNotFound,
    ActorStopped,
    AskTimeout,
    MailboxFull,
    TransformError,
)
from tests.actors.helpers import Crash

NAMES = [f"actor-{number}" for number in range(6)]
NUM_ASKERS = 12
NUM_ASKS = 60
EXPECTED = (ActorFailed, ActorStopped, ActorNotFound, AskTimeout, MailboxFull, TransformError)


class Moody(Actor):
    """Does at random what an actor may do wrong; its answer names the question."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    async def on_start(self) -> None:
        await self._dawdle()
        if self._rng.random() < 0.05:
            raise Crash("at start")

    async def receive(self, message: int) -> int:
        await self._dawdle()
        match self._rng.randrange(12):
            case 0:
                raise Crash("in receive")
            case 1:
                raise TransformError("as an answer")
            case 2 if self._rng.random() < 0.2:
                self.context.stop()
            case 3:
                self.context.run(self._work(), name="work")
        return message

    async def on_stop(self) -> None:
        await self._dawdle()
        if self._rng.random() < 0.1:
            raise Crash("at stop")

    async def _work(self) -> None:
        await self._dawdle()
        if self._rng.random() < 0.2:
            raise Crash("at work")

    async def _dawdle(self) -> None:
        for _ in range(self._rng.randrange(3)):
            await asyncio.sleep(0)


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("seed", range(4))
async def test_every_ask_ends_while_actors_crash_at_random(seed: int, strategy: Strategy) -> None:
    rng = random.Random(f"{seed} {strategy}")
    outcomes: Counter[str] = Counter()
    tireless = Supervision(strategy=strategy, intensity=10**6, backoff_s=0, max_backoff_s=0)
    async with ActorSystem("node", supervision=tireless) as system:
        await system.spawn(lambda: _make_tree(rng, tireless), name="tree")
        async with asyncio.TaskGroup() as group:
            for _ in range(NUM_ASKERS):
                group.create_task(_ask_at_random(system, rng, outcomes))
            group.create_task(_stop_and_spawn_at_random(system, rng))
    assert outcomes.total() == NUM_ASKERS * NUM_ASKS
    assert outcomes["answer"] > outcomes.total() / 4
    assert outcomes["wrong answer"] == 0
    assert outcomes["AskTimeout"] == 0


def _make_tree(rng: random.Random, supervision: Supervision) -> Supervisor:
    """Three children of a supervisor; a child whose factory runs is always a new one."""
    policies = [RestartPolicy.PERMANENT, RestartPolicy.TRANSIENT, RestartPolicy.PERMANENT]
    specs = [
        ChildSpec(factory=lambda: Moody(rng), name=f"child-{number}", restart=policy, mailbox_capacity=2)
        for number, policy in enumerate(policies)
    ]
    return _Patient(specs, supervision=supervision)


class _Patient(Supervisor):
    """A supervisor that takes a child's failure to start for bad luck."""

    async def on_start(self) -> None:
        for spec in self._specs:
            while True:
                try:
                    await self.context.spawn_child(spec)
                except Crash:
                    continue
                break


async def _ask_at_random(system: ActorSystem, rng: random.Random, outcomes: Counter[str]) -> None:
    for question in range(NUM_ASKS):
        name = rng.choice([*NAMES, "child-0", "child-1", "child-2"])
        timeout_s: float = 20
        try:
            async with asyncio.timeout(0 if rng.random() < 0.05 else timeout_s):
                answer = await system.ref(name).ask(question, timeout_s=timeout_s)
            outcomes["answer" if answer == question else "wrong answer"] += 1
        except EXPECTED as error:
            outcomes[type(error).__name__] += 1
        except TimeoutError:  # the asker was cancelled
            outcomes["cancelled"] += 1
        await asyncio.sleep(0)


async def _stop_and_spawn_at_random(system: ActorSystem, rng: random.Random) -> None:
    policies: list[Any] = list(RestartPolicy)
    for _ in range(200):
        name = rng.choice(NAMES)
        try:
            if rng.random() < 0.2:
                await system.ref(name).stop()
            else:
                await system.spawn(lambda: Moody(rng), name=name, restart=rng.choice(policies), mailbox_capacity=2)
        except (ActorNotFound, ActorNameTaken, ActorStopped, Crash):
            pass
        await asyncio.sleep(0)
