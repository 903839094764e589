"""The end of a system: left, cancelled, failed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parrot_mq.actors import ActorSystem
from parrot_mq.errors import ActorStopped
from tests.actors.helpers import ManualClock, Recorder, ask_for_error, seen_by, settle, wait_until


async def test_actors_stop_in_reverse_order_of_their_start() -> None:
    diary: list[str] = []
    async with ActorSystem("node") as system:
        for name in "abc":
            await system.spawn(_recorder(diary, name), name=name)
    assert diary == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]


async def test_error_in_the_block_comes_out_bare_after_a_complete_stop() -> None:
    diary: list[str] = []

    async def host() -> None:
        async with ActorSystem("node") as system:
            await system.spawn(_recorder(diary, "actor"), name="actor")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await host()
    assert diary == ["start actor", "stop actor"]


async def test_cancelled_block_stops_everything_in_order() -> None:
    diary: list[str] = []

    async def host() -> None:
        async with ActorSystem("node") as system:
            for name in "ab":
                await system.spawn(_recorder(diary, name), name=name)
            await system.run_until_stopped()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(host())
        await wait_until(lambda: len(diary) == 2)
        task.cancel()
    assert task.cancelled()
    assert diary[2:] == ["stop b", "stop a"]


async def test_block_cancelled_twice_still_ends_every_task() -> None:
    diary: list[str] = []

    async def host() -> None:
        async with ActorSystem("node") as system:
            for name in "ab":
                ref = await system.spawn(_recorder(diary, name), name=name)
                await ref.tell(asyncio.Event())
            await system.run_until_stopped()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(host())
        await wait_until(lambda: len(diary) == 2)
        await settle()
        task.cancel()
        await settle()
        task.cancel()
    assert sorted(diary[2:]) == ["stop a", "stop b"]


async def test_block_cancelled_twice_leaves_no_asker_of_a_restarting_actor_behind(clock: ManualClock) -> None:
    """An actor in its back-off has no task that the cancellation would reach."""
    systems: list[ActorSystem] = []

    async def host() -> None:
        async with ActorSystem("node", clock=clock) as system:
            systems.append(system)
            await (await system.spawn(Recorder, name="failing")).tell("crash")
            await (await system.spawn(Recorder, name="busy")).tell(asyncio.Event())
            await system.run_until_stopped()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(host())
        await wait_until(lambda: clock.delays_s != [])
        asker = group.create_task(ask_for_error(systems[0].ref("failing"), "seen"))
        await settle()
        task.cancel()
        await settle()
        task.cancel()
        assert isinstance(await asker, ActorStopped)


async def test_run_until_stopped_returns_on_request() -> None:
    async with ActorSystem("node") as system, asyncio.TaskGroup() as group:
        running = group.create_task(system.run_until_stopped())
        await settle()
        assert not running.done()
        system.request_stop()
        system.request_stop()


async def test_system_that_was_not_closed_warns() -> None:
    async def host() -> None:
        system = ActorSystem("node")
        await system.__aenter__()
        with pytest.warns(ResourceWarning, match="'node' was not closed"):
            system.__del__()
        await system.__aexit__(None, None, None)

    await host()


async def test_actors_can_reach_each_other_while_they_stop() -> None:
    """The first started stops last, so what an actor was built on is there until its `on_stop` has ended."""
    answers: list[list[object]] = []

    class Dependent(Recorder):
        async def on_stop(self) -> None:
            answers.append(await seen_by(self.context.system.ref("base")))

    async with ActorSystem("node") as system:
        base = await system.spawn(Recorder, name="base")
        await base.tell("kept")
        await system.spawn(Dependent, name="dependent")
    assert answers == [["kept"]]


def _recorder(diary: list[str], name: str) -> Any:
    return lambda: Recorder(diary, name=name)
