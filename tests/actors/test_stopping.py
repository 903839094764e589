"""Stopping: what is finished, what is answered, what is cancelled, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from parrot_mq.actors import ActorRef, ActorSystem, RestartPolicy
from parrot_mq.errors import ActorStopped
from tests.actors.helpers import ManualClock, Recorder, ask_for_error, settle


async def test_children_stop_before_their_parent() -> None:
    diary: list[str] = []

    class Parent(Recorder):
        async def on_start(self) -> None:
            for name in ("first", "second"):
                await self.context.spawn(_recorder(diary, name), name=name)

    async with ActorSystem("node") as system:
        await system.spawn(lambda: Parent(diary, name="parent"), name="parent")
    assert diary == ["start first", "start second", "stop second", "stop first", "stop parent"]


async def test_message_being_handled_is_finished() -> None:
    async with ActorSystem("node") as system, asyncio.TaskGroup() as group:
        recorder = await system.spawn(Recorder, name="recorder")
        gate = asyncio.Event()
        asker = group.create_task(recorder.ask(gate, timeout_s=5))
        await settle()
        stopping = group.create_task(recorder.stop())
        await settle()
        assert not stopping.done()
        gate.set()
        await stopping
        assert await asker is None


async def test_a_timer_that_comes_due_while_the_actor_ends_does_no_harm(logs: list[MutableMapping[str, Any]]) -> None:
    class Timed(Recorder):
        async def on_start(self) -> None:
            self.context.after(1.0, "late")
            self.context.every(1.0, "late")

    clock, gate = ManualClock(), asyncio.Event()
    async with ActorSystem("node", clock=clock) as system, asyncio.TaskGroup() as group:
        timed = await system.spawn(Timed, name="timed")
        await timed.tell(gate)
        await settle()
        stopping = group.create_task(timed.stop())
        await clock.advance(3.0)
        gate.set()
        await stopping
    assert "actor_failed" not in {event["event"] for event in logs}


async def test_message_that_takes_too_long_is_cancelled(logs: list[MutableMapping[str, Any]]) -> None:
    async with ActorSystem("node") as system, asyncio.TaskGroup() as group:
        recorder = await system.spawn(Recorder, name="recorder", stop_timeout_s=0.01)
        asker = group.create_task(ask_for_error(recorder, asyncio.Event()))
        await settle()
        await recorder.stop()
        assert isinstance(await asker, ActorStopped)
    assert "actor_stop_timed_out" in {event["event"] for event in logs}


async def test_asks_still_queued_are_answered_with_actor_stopped() -> None:
    async with ActorSystem("node") as system, asyncio.TaskGroup() as group:
        recorder = await system.spawn(Recorder, name="recorder")
        gate = asyncio.Event()
        await recorder.tell(gate)
        await settle()
        askers = [group.create_task(ask_for_error(recorder, "seen")) for _ in range(3)]
        await settle()
        stopping = group.create_task(recorder.stop())
        for asker in askers:
            assert isinstance(await asker, ActorStopped)
        gate.set()
        await stopping


async def test_senders_that_wait_for_room_learn_of_the_stop() -> None:
    async with ActorSystem("node") as system, asyncio.TaskGroup() as group:
        recorder = await system.spawn(Recorder, name="recorder", mailbox_capacity=1, stop_timeout_s=0.01)
        await recorder.tell(asyncio.Event())
        await settle()
        await recorder.tell("fills it")
        sender = group.create_task(_tell_for_error(recorder, "waits"))
        await settle()
        await recorder.stop()
        assert isinstance(await sender, ActorStopped)


async def test_tells_still_queued_are_dropped_and_counted_in_the_log(logs: list[MutableMapping[str, Any]]) -> None:
    async with ActorSystem("node") as system, asyncio.TaskGroup() as group:
        recorder = await system.spawn(Recorder, name="recorder")
        gate = asyncio.Event()
        for message in (gate, "a", "b"):
            await recorder.tell(message)
        await settle()
        stopping = group.create_task(recorder.stop())
        await settle()
        gate.set()
        await stopping
    (event,) = [event for event in logs if event["event"] == "messages_dropped"]
    assert (event["actor"], event["num_dropped"]) == ("node/recorder", 2)


async def test_stop_may_be_called_twice_and_waits_both_times() -> None:
    diary: list[str] = []
    async with ActorSystem("node") as system, asyncio.TaskGroup() as group:
        recorder = await system.spawn(_recorder(diary, "actor"), name="actor")
        group.create_task(recorder.stop())
        await recorder.stop()
        assert diary[-1] == "stop actor"
        await recorder.stop()
        await recorder.wait_stopped()
    assert diary.count("stop actor") == 1


async def test_cancelled_stop_stops_nevertheless() -> None:
    async with ActorSystem("node") as system, asyncio.TaskGroup() as group:
        recorder = await system.spawn(Recorder, name="recorder")
        gate = asyncio.Event()
        await recorder.tell(gate)
        await settle()
        stopping = group.create_task(recorder.stop())
        await settle()
        stopping.cancel()
        gate.set()
        await recorder.wait_stopped()


async def test_actor_may_stop_itself_by_its_reference() -> None:
    async def stop_itself(recorder: Recorder) -> None:
        await recorder.context.ref.stop()

    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder")
        await recorder.tell(stop_itself)
        await recorder.wait_stopped()


async def test_transient_actor_that_stops_itself_stays_stopped() -> None:
    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder", restart=RestartPolicy.TRANSIENT)
        await recorder.tell("stop")
        await recorder.wait_stopped()


async def test_stop_during_on_start_cancels_it_and_does_not_call_on_stop() -> None:
    diary: list[str] = []

    class Endless(Recorder):
        async def on_start(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await settle()  # clean-up takes its time and is not cancelled again
                diary.append("cleaned up")

    async with ActorSystem("node") as system, asyncio.TaskGroup() as group:
        starter = group.create_task(_spawn_for_error(system, lambda: Endless(diary)))
        await settle()
        async with asyncio.TaskGroup() as stoppers:
            stoppers.create_task(system.ref("actor").stop())
            await settle(5)
            stoppers.create_task(system.ref("actor").stop())
        assert isinstance(await starter, ActorStopped)
    assert diary == ["cleaned up"]


async def test_stop_before_the_task_has_run_reaches_the_starter() -> None:
    """Cancelled before its first step, a task runs nothing, not even its `finally`."""
    diary: list[str] = []
    async with ActorSystem("node") as system, asyncio.TaskGroup() as group:
        starter = group.create_task(_spawn_for_error(system, lambda: Recorder(diary)))
        await asyncio.sleep(0)
        await system.ref("actor").stop()
        assert isinstance(await starter, ActorStopped)
    assert diary == []


async def test_failing_on_stop_is_logged_and_stops_the_rest(logs: list[MutableMapping[str, Any]]) -> None:
    diary: list[str] = []

    class Stubborn(Recorder):
        async def on_stop(self) -> None:
            raise OSError("disk full")

    async with ActorSystem("node") as system:
        await system.spawn(_recorder(diary, "first"), name="first")
        await system.spawn(Stubborn, name="stubborn")
    assert diary[-1] == "stop first"
    assert [event["actor"] for event in logs if event["event"] == "actor_stop_failed"] == ["node/stubborn"]


async def test_on_stop_that_takes_too_long_is_cancelled() -> None:
    class Slow(Recorder):
        async def on_stop(self) -> None:
            await asyncio.Event().wait()

    async with ActorSystem("node") as system:
        await system.spawn(Slow, name="slow", stop_timeout_s=0.01)


async def test_slow_children_do_not_cut_the_stop_of_their_parent_short() -> None:
    """The parent's limit is for its own message and `on_stop`; each child has its own."""
    diary: list[str] = []

    class Slow(Recorder):
        async def on_stop(self) -> None:
            await asyncio.sleep(0.05)
            self.diary.append("stop slow")

    class Parent(Recorder):
        async def on_start(self) -> None:
            await self.context.spawn(lambda: Slow(diary), name="slow")

    async with ActorSystem("node") as system:
        await system.spawn(lambda: Parent(diary, name="parent"), name="parent", stop_timeout_s=0.01)
    assert diary == ["start actor", "stop slow", "stop parent"]


def _recorder(diary: list[str], name: str) -> Any:
    return lambda: Recorder(diary, name=name)


async def _tell_for_error(ref: ActorRef, message: object) -> Exception | None:
    try:
        await ref.tell(message)
    except ActorStopped as error:
        return error
    return None


async def _spawn_for_error(system: ActorSystem, factory: Any) -> Exception | None:
    try:
        await system.spawn(factory, name="actor")
    except ActorStopped as error:
        return error
    return None
