"""Restarts: who, when, how often, and what survives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

import pytest

from parrot_mq.actors import (
    ActorRef,
    ActorState,
    ActorSystem,
    ChildSpec,
    RestartPolicy,
    Strategy,
    Supervision,
    Supervisor,
)
from parrot_mq.errors import ActorFailed, ActorStopped, RestartIntensityExceeded
from tests.actors.helpers import Crash, ManualClock, Recorder, seen_by, settle, wait_until

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


# -- back-off and intensity ------------------------------------------------------------------------------------------


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
        asker = group.create_task(_ask_for_error(actor))
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


async def test_too_many_restarts_cancel_the_block_and_come_out_of_it() -> None:
    diary: Diary = []

    async def host() -> None:
        async with ActorSystem("node", supervision=Supervision(intensity=2, backoff_s=0)) as system:
            await system.spawn(_recorder(diary, "good"), name="good")
            bad = await system.spawn(Recorder, name="bad")
            for _ in range(3):
                await bad.tell("crash")
            await system.run_until_stopped()

    with pytest.raises(RestartIntensityExceeded, match=r"node/bad.*more than 2 times in 5 s") as raised:
        await host()
    assert isinstance(raised.value.__cause__, Crash)
    assert diary == ["start good", "stop good"]


async def test_failure_of_the_root_leaves_no_cancellation_behind() -> None:
    """The task that ran the block goes on, as after `asyncio.timeout`."""
    with pytest.raises(RestartIntensityExceeded):
        await _fail_root(ActorSystem.run_until_stopped)
    _assert_not_cancelling()
    await asyncio.sleep(0)


async def test_block_that_ignores_its_cancellation_still_raises_the_failure() -> None:
    async def ignore(system: ActorSystem) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await system.run_until_stopped()

    with pytest.raises(RestartIntensityExceeded):
        await _fail_root(ignore)
    _assert_not_cancelling()


async def test_error_of_the_block_is_not_hidden_by_a_failure_of_the_root() -> None:
    async def fail_too(system: ActorSystem) -> None:
        try:
            await system.run_until_stopped()
        finally:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await _fail_root(fail_too)
    _assert_not_cancelling()


async def test_cancellation_from_outside_is_not_taken_for_a_failure_of_the_root() -> None:
    async def host() -> None:
        async with ActorSystem("node", supervision=Supervision(intensity=0)) as system:
            bad = await system.spawn(Recorder, name="bad")
            await bad.tell("crash")
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await system.run_until_stopped()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(host())
    assert task.cancelled()


async def test_wait_failed_raises_what_failed_the_root() -> None:
    with pytest.raises(RestartIntensityExceeded):
        await _fail_root(ActorSystem.wait_failed)
    _assert_not_cancelling()


async def test_wait_failed_returns_when_the_system_is_closed() -> None:
    async with asyncio.TaskGroup() as group:
        async with ActorSystem("node") as system:
            waiting = group.create_task(system.wait_failed())
            await settle()
        await waiting


# -- trees -----------------------------------------------------------------------------------------------------------


async def test_too_many_restarts_of_children_restart_the_parent() -> None:
    diary: Diary = []
    async with ActorSystem("node", supervision=EAGER) as system:
        await system.spawn(partial(_make_supervisor, diary, "ab", intensity=0), name="parent")
        child = system.ref("b")
        await child.tell("crash")
        await wait_until(lambda: diary.count("start b") == 2)
        assert diary == ["start a", "start b", "stop b", "stop a", "start a", "start b"]
        await child.tell("hello")  # the reference means the name, and finds the new child
        assert await seen_by(child) == ["hello"]


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


async def test_siblings_do_not_stay_behind_one_that_is_stopped_instead_of_restarted(clock: ManualClock) -> None:
    diary: Diary = []
    stops: list[asyncio.Task[None]] = []

    class Unlucky(Recorder):
        async def on_start(self) -> None:
            await super().on_start()
            if self.diary.count("start a") == 2:
                stops.append(group.create_task(stop_when_it_has_ended()))
                raise Crash("not again")

    async def stop_when_it_has_ended() -> None:
        while system.statistics().actors[1].state is not ActorState.RESTARTING:
            await settle(1)
        await system.ref("a").stop()

    supervision = Supervision(strategy=Strategy.ONE_FOR_ALL, backoff_s=1)
    specs = [
        ChildSpec(factory=lambda: Unlucky(diary, name="a"), name="a"),
        ChildSpec(factory=_recorder(diary, "b"), name="b"),
        ChildSpec(factory=_recorder(diary, "c"), name="c"),
    ]
    async with ActorSystem("node", clock=clock) as system, asyncio.TaskGroup() as group:
        await system.spawn(lambda: Supervisor(specs, supervision=supervision), name="parent")
        await system.ref("c").tell("crash")
        await settle()
        await clock.advance(10)
        assert await seen_by(system.ref("b")) == []
        assert await seen_by(system.ref("c")) == []
        assert len(stops) == 1


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


async def _ask_for_error(actor: ActorRef) -> Exception | None:
    try:
        await actor.ask("seen", timeout_s=5)
    except ActorStopped as error:
        return error
    return None


async def _fail_root(block: Callable[[ActorSystem], Awaitable[None]]) -> None:
    """Run `block` inside a system whose root is about to fail."""
    async with ActorSystem("node", supervision=Supervision(intensity=0)) as system:
        await (await system.spawn(Recorder, name="bad")).tell("crash")
        await block(system)


def _assert_not_cancelling() -> None:
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
