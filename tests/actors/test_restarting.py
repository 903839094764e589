"""Restarts: who, when, how often, and what survives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest

from parrot_mq.actors import (
    ActorState,
    ActorSystem,
    RestartPolicy,
    Supervision,
)
from parrot_mq.errors import ActorFailed, ActorStopped
from tests.actors.helpers import Crash, ManualClock, Recorder, ask_for_error, seen_by, settle, wait_until

EAGER = Supervision(backoff_s=0)


Diary = list[str]


async def test_failed_actor_is_restarted_as_a_new_instance() -> None:
    instances: list[Recorder] = []

    def make() -> Recorder:
        instances.append(Recorder())
        return instances[-1]

    async with ActorSystem("node", supervision=EAGER) as system:
        actor = await system.spawn(make, name="actor")
        await actor.tell("before")
        await actor.tell("crash")
        assert await seen_by(actor) == []
        assert len(instances) == 2


async def test_messages_in_the_mailbox_survive_a_restart() -> None:
    async with ActorSystem("node", supervision=EAGER) as system:
        actor = await system.spawn(Recorder, name="actor")
        for message in ("crash", "one", "two"):
            await actor.tell(message)
        assert await seen_by(actor) == ["one", "two"]


async def test_asks_in_the_mailbox_are_answered_after_a_restart() -> None:
    async with ActorSystem("node", supervision=EAGER) as system, asyncio.TaskGroup() as group:
        actor = await system.spawn(Recorder, name="actor")
        await actor.tell("crash")
        asker = group.create_task(seen_by(actor))
        assert await asker == []


async def test_reference_survives_a_restart() -> None:
    async with ActorSystem("node", supervision=EAGER) as system:
        actor = await system.spawn(Recorder, name="actor")
        with pytest.raises(ActorFailed):
            await actor.ask("crash", timeout_s=1)
        await actor.tell("hello")
        assert await seen_by(actor) == ["hello"]


async def test_on_stop_is_called_after_a_failure() -> None:
    diary: Diary = []
    async with ActorSystem("node", supervision=EAGER) as system:
        actor = await system.spawn(_recorder(diary, "a"), name="a")
        await actor.tell("crash")
        await wait_until(lambda: len(diary) == 3)
        assert diary == ["start a", "stop a", "start a"]


async def test_restart_is_logged_with_its_cause(logs: list[MutableMapping[str, Any]]) -> None:
    async with ActorSystem("node", supervision=EAGER) as system:
        actor = await system.spawn(Recorder, name="actor")
        await actor.tell("crash")
        await seen_by(actor)
    (event,) = [event for event in logs if event["event"] == "actor_restart_scheduled"]
    assert (event["actor"], event["cause"], event["log_level"]) == ("node/actor", "Crash('as told')", "warning")
    assert isinstance(event["exc_info"], Crash)
    assert [event["num_restarts"] for event in logs if event["event"] == "actor_restarted"] == [1]


async def test_temporary_actor_is_not_restarted(logs: list[MutableMapping[str, Any]]) -> None:
    async with ActorSystem("node", supervision=EAGER) as system:
        actor = await system.spawn(Recorder, name="actor", restart=RestartPolicy.TEMPORARY)
        await actor.tell("crash")
        await actor.wait_stopped()
        with pytest.raises(ActorStopped):
            await actor.tell("gone")
    assert "actor_failed" in {event["event"] for event in logs}


async def test_transient_actor_is_restarted_only_after_a_failure() -> None:
    async with ActorSystem("node", supervision=EAGER) as system:
        actor = await system.spawn(Recorder, name="actor", restart=RestartPolicy.TRANSIENT)
        await actor.tell("crash")
        assert await seen_by(actor) == []
        await actor.tell("stop")
        await actor.wait_stopped()


async def test_permanent_actor_is_restarted_also_after_it_stopped_itself() -> None:
    async with ActorSystem("node", supervision=EAGER) as system:
        actor = await system.spawn(Recorder, name="actor")
        await actor.tell("before")
        await actor.tell("stop")
        assert await seen_by(actor) == []


async def test_actor_that_fails_right_after_its_start_is_restarted() -> None:
    """It was ready, so the failure is not the starter's, however soon it comes."""

    class Hasty(Recorder):
        async def on_start(self) -> None:
            self.diary.append("start")
            if len(self.diary) == 1:
                self.context.tell_self_nowait("crash")

    diary: Diary = []
    async with ActorSystem("node", supervision=EAGER) as system:
        actor = await system.spawn(lambda: Hasty(diary), name="actor")
        assert await seen_by(actor) == []


async def test_backoff_grows_with_each_failure(clock: ManualClock) -> None:
    supervision = Supervision(intensity=10, period_s=100, backoff_s=1, max_backoff_s=3)
    delays_s: list[float] = []
    async with ActorSystem("node", clock=clock, supervision=supervision) as system:
        actor = await system.spawn(Recorder, name="actor")
        for _ in range(4):
            await actor.tell("crash")
            await settle()
            assert system.statistics().actors[0].state is ActorState.RESTARTING
            delays_s += clock.delays_s
            await clock.advance(clock.delays_s[0])
            assert system.statistics().actors[0].state is ActorState.RUNNING
    assert delays_s == [1, 2, 3, 3]


async def test_one_child_does_not_wait_for_the_backoff_of_another(clock: ManualClock) -> None:
    supervision = Supervision(intensity=10, period_s=100, backoff_s=1)
    async with ActorSystem("node", clock=clock, supervision=supervision) as system:
        for name in "ab":
            await (await system.spawn(Recorder, name=name)).tell("crash")
        await settle()
        assert clock.delays_s == [1, 1]
        await clock.advance(1)
        assert {actor.state for actor in system.statistics().actors} == {ActorState.RUNNING}


async def test_actor_stopped_during_its_backoff_stays_stopped(clock: ManualClock) -> None:
    diary: Diary = []
    supervision = Supervision(backoff_s=1)
    async with ActorSystem("node", clock=clock, supervision=supervision) as system, asyncio.TaskGroup() as group:
        actor = await system.spawn(_recorder(diary, "a"), name="a")
        await actor.tell("crash")
        await settle()
        asker = group.create_task(ask_for_error(actor, "seen"))
        await settle()
        await actor.stop()
        assert isinstance(await asker, ActorStopped)
        await clock.advance(10)
    assert diary == ["start a", "stop a"]


async def test_failures_of_on_start_count_as_restarts(clock: ManualClock) -> None:
    attempts: Diary = []

    class Unlucky(Recorder):
        async def on_start(self) -> None:
            attempts.append("start")
            if 1 < len(attempts) < 4:
                raise Crash("not yet")

    async with ActorSystem("node", supervision=EAGER) as system:
        actor = await system.spawn(Unlucky, name="actor")
        await actor.tell("crash")
        assert await seen_by(actor) == []
        assert system.statistics().actors[0].num_restarts == 3


def _recorder(diary: Diary, name: str) -> Callable[[], Recorder]:
    return lambda: Recorder(diary, name=name)
