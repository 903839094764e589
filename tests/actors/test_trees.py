"""Trees: children of a supervisor, restarted by its strategy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from parrot_mq.actors import (
    ActorSystem,
    ChildSpec,
    RestartPolicy,
    Strategy,
    Supervision,
    Supervisor,
)
from parrot_mq.errors import ActorFailed
from tests.actors.helpers import Crash, ManualClock, Recorder, seen_by, settle, wait_until

EAGER = Supervision(backoff_s=0)


Diary = list[str]


async def test_one_for_all_restarts_all_in_order(clock: ManualClock) -> None:
    diary: Diary = []
    async with ActorSystem("node") as system:
        await system.spawn(partial(_make_supervisor, diary, "abc", strategy=Strategy.ONE_FOR_ALL), name="parent")
        diary.clear()
        await system.ref("b").tell("crash")
        await wait_until(lambda: len(diary) == 6)
        assert diary == ["stop b", "stop c", "stop a", "start a", "start b", "start c"]


async def test_rest_for_one_restarts_those_started_later() -> None:
    diary: Diary = []
    async with ActorSystem("node") as system:
        await system.spawn(partial(_make_supervisor, diary, "abc", strategy=Strategy.REST_FOR_ONE), name="parent")
        diary.clear()
        await system.ref("b").tell("crash")
        await wait_until(lambda: len(diary) == 4)
        assert diary == ["stop b", "stop c", "start b", "start c"]


async def test_messages_of_siblings_survive_their_common_restart() -> None:
    async with ActorSystem("node") as system:
        await system.spawn(partial(_make_supervisor, [], "ab", strategy=Strategy.ONE_FOR_ALL), name="parent")
        gate = asyncio.Event()
        await system.ref("a").tell(gate)
        await system.ref("a").tell("kept")
        await settle()
        await system.ref("b").tell("crash")
        await settle()
        gate.set()
        assert await seen_by(system.ref("a")) == ["kept"]


async def test_temporary_sibling_is_stopped_and_not_started_again() -> None:
    diary: Diary = []
    specs = [
        ChildSpec(factory=_recorder(diary, "a"), name="a"),
        ChildSpec(factory=_recorder(diary, "b"), name="b", restart=RestartPolicy.TEMPORARY),
    ]
    supervision = Supervision(strategy=Strategy.ONE_FOR_ALL, backoff_s=0)
    async with ActorSystem("node") as system:
        await system.spawn(lambda: Supervisor(specs, supervision=supervision), name="parent")
        await system.ref("a").tell("crash")
        await wait_until(lambda: diary.count("start a") == 2)
        await settle()
        assert diary == ["start a", "start b", "stop a", "stop b", "start a"]


async def test_sibling_that_cannot_start_is_tried_again_with_those_behind_it() -> None:
    diary: Diary = []

    class Unlucky(Recorder):
        async def on_start(self) -> None:
            await super().on_start()
            if self.diary.count("start b") == 2:
                raise Crash("not yet")

    supervision = Supervision(strategy=Strategy.REST_FOR_ONE, backoff_s=0)
    specs = [
        ChildSpec(factory=_recorder(diary, "a"), name="a"),
        ChildSpec(factory=lambda: Unlucky(diary, name="b"), name="b"),
        ChildSpec(factory=_recorder(diary, "c"), name="c"),
    ]
    async with ActorSystem("node") as system:
        await system.spawn(lambda: Supervisor(specs, supervision=supervision), name="parent")
        diary.clear()
        diary.append("start b")
        await system.ref("a").tell("crash")
        await wait_until(lambda: diary.count("start c") == 1)
        assert diary[-4:] == ["start a", "start b", "start b", "start c"]


async def test_siblings_do_not_stay_behind_one_that_is_stopped_while_it_starts_again(clock: ManualClock) -> None:
    class Slow(Recorder):
        async def on_start(self) -> None:
            await super().on_start()
            if self.diary.count("start a") == 2:
                await asyncio.Event().wait()

    diary: Diary = []
    supervisor = partial(_make_clocked_supervisor, diary, Slow, Strategy.ONE_FOR_ALL)
    async with ActorSystem("node", clock=clock) as system:
        await system.spawn(supervisor, name="parent")
        await system.ref("c").tell("crash")
        await settle()
        await clock.advance(1)
        await system.ref("a").stop()
        assert await seen_by(system.ref("b")) == []
        assert await seen_by(system.ref("c")) == []


async def test_siblings_do_not_stay_behind_one_that_is_stopped_before_its_next_restart(clock: ManualClock) -> None:
    """`a` fails to start again, and is stopped while the end of `c` is dealt with first; `b` waited for it."""

    class Unlucky(Recorder):
        async def on_start(self) -> None:
            await super().on_start()
            if self.diary.count("start a") == 2:
                raise Crash("not again")

    diary: Diary = []
    supervisor = partial(_make_clocked_supervisor, diary, Unlucky, Strategy.REST_FOR_ONE)
    async with ActorSystem("node", clock=clock) as system:
        await system.spawn(supervisor, name="parent")
        system.ref("a").tell_nowait("crash")
        system.ref("c").tell_nowait("crash")
        await settle()
        await clock.advance(1)
        assert diary.count("start a") == 2
        assert clock.delays_s == [1]
        await system.ref("a").stop()
        await clock.advance(1)
        assert await seen_by(system.ref("b")) == []
        assert await seen_by(system.ref("c")) == []


async def test_sibling_that_is_being_spawned_is_left_alone() -> None:
    gate = asyncio.Event()

    class Slow(Recorder):
        async def on_start(self) -> None:
            await gate.wait()

    supervision = Supervision(strategy=Strategy.ONE_FOR_ALL, backoff_s=0)
    async with ActorSystem("node", supervision=supervision) as system, asyncio.TaskGroup() as group:
        first = await system.spawn(Recorder, name="first")
        starter = group.create_task(system.spawn(Slow, name="second"))
        await settle()
        await first.tell("crash")
        assert await seen_by(first) == []
        gate.set()
        assert await seen_by(await starter) == []


async def test_failing_parent_stops_its_children_and_starts_them_again() -> None:
    diary: Diary = []

    class Parent(Recorder):
        async def on_start(self) -> None:
            await super().on_start()
            await self.context.spawn(_recorder(self.diary, "child"), name="child")

    async with ActorSystem("node", supervision=EAGER) as system:
        parent = await system.spawn(lambda: Parent(diary, name="parent"), name="parent")
        await parent.tell("crash")
        assert await seen_by(parent) == []
    one_life = ["start parent", "start child", "stop child", "stop parent"]
    assert diary == one_life * 2


async def test_failure_of_a_child_to_start_reaches_the_starter_of_the_parent() -> None:
    diary: Diary = []

    def fail() -> Recorder:
        raise Crash("no child")

    specs = [ChildSpec(factory=_recorder(diary, "a"), name="a"), ChildSpec(factory=fail, name="b")]
    async with ActorSystem("node") as system:
        with pytest.raises(Crash, match="no child"):
            await system.spawn(lambda: Supervisor(specs), name="parent")
        assert system.statistics().actors == ()
    assert diary == ["start a", "stop a"]


async def test_supervisor_takes_no_messages() -> None:
    async with ActorSystem("node", supervision=EAGER) as system:
        supervisor = await system.spawn(lambda: Supervisor([]), name="supervisor")
        with pytest.raises(ActorFailed, match="takes no messages"):
            await supervisor.ask("hello", timeout_s=1)


def _recorder(diary: Diary, name: str) -> Callable[[], Recorder]:
    return lambda: Recorder(diary, name=name)


def _make_supervisor(
    diary: Diary, names: str, *, strategy: Strategy = Strategy.ONE_FOR_ONE, intensity: int = 3
) -> Supervisor:
    supervision = Supervision(strategy=strategy, intensity=intensity, backoff_s=0)
    return Supervisor([ChildSpec(factory=_recorder(diary, name), name=name) for name in names], supervision=supervision)


def _make_clocked_supervisor(diary: Diary, first: type[Recorder], strategy: Strategy) -> Supervisor:
    """A supervisor of `a`, which is special, `b` and `c`, with a back-off of 1 s."""
    specs = [ChildSpec(factory=lambda: first(diary, name="a"), name="a")]
    specs += [ChildSpec(factory=_recorder(diary, name), name=name) for name in "bc"]
    return Supervisor(specs, supervision=Supervision(strategy=strategy, intensity=9, backoff_s=1))
