"""Work that an actor owns beside its messages: tasks and timers."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from parrot_mq.actors import ActorSystem, RestartPolicy, Supervision
from parrot_mq.errors import ActorFailed, ActorStopped
from tests.actors.helpers import Crash, ManualClock, Recorder, ask_for_error, seen_by, settle, wait_until


async def test_work_runs_beside_the_messages() -> None:
    class Reader(Recorder):
        async def on_start(self) -> None:
            self.context.run(self._read(), name="read")

        async def _read(self) -> None:
            for number in range(3):
                await self.context.ref.tell(number)

    async with ActorSystem("node") as system:
        reader = await system.spawn(Reader, name="reader")
        await settle()
        assert await seen_by(reader) == [0, 1, 2]


async def test_work_is_cancelled_at_stop_before_on_stop() -> None:
    class Worker(Recorder):
        async def on_start(self) -> None:
            self.context.run(self._work(), name="work")

        async def _work(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await settle()
                self.diary.append("work ended")

    diary: list[str] = []
    async with ActorSystem("node") as system:
        await system.spawn(lambda: Worker(diary), name="worker")
        await settle()
    assert diary == ["work ended", "stop actor"]


async def test_failure_of_work_fails_the_actor_and_interrupts_its_message() -> None:
    async def fail(gate: asyncio.Event) -> None:
        await gate.wait()
        raise Crash("work failed")

    gate = asyncio.Event()

    class Worker(Recorder):
        async def on_start(self) -> None:
            self.context.run(fail(gate), name="work")

    async with ActorSystem("node") as system, asyncio.TaskGroup() as group:
        worker = await system.spawn(Worker, name="worker", restart=RestartPolicy.TEMPORARY)
        asker = group.create_task(ask_for_error(worker, asyncio.Event()))
        await settle()
        gate.set()
        assert "work failed" in str(await asker)
        await worker.wait_stopped()


async def test_work_may_end_or_be_cancelled_without_harm() -> None:
    async def hold(recorder: Recorder) -> None:
        recorder.context.run(settle(), name="short")
        recorder.context.run(asyncio.Event().wait(), name="endless").cancel()

    async with ActorSystem("node") as system:
        actor = await system.spawn(Recorder, name="actor")
        await actor.tell(hold)
        await settle(60)
        assert await seen_by(actor) == []


async def test_work_may_stop_its_actor() -> None:
    class Brief(Recorder):
        async def on_start(self) -> None:
            self.context.run(self._end(), name="end")

        async def _end(self) -> None:
            self.context.stop()

    async with ActorSystem("node") as system:
        brief = await system.spawn(Brief, name="brief", restart=RestartPolicy.TRANSIENT)
        await brief.wait_stopped()


async def test_no_work_begins_once_the_actor_ends() -> None:
    class Late(Recorder):
        async def on_stop(self) -> None:
            with pytest.raises(ActorStopped):
                self.context.run(settle(), name="late")
            self.diary.append("refused")

    diary: list[str] = []
    async with ActorSystem("node") as system:
        await system.spawn(lambda: Late(diary), name="late")
    assert diary == ["start actor", "refused"]


async def test_work_begun_while_a_failing_actor_ends_is_ended_too() -> None:
    """The task group of a failing actor is being aborted, and would wait for what is begun in it then."""

    def begin_endless_work(recorder: Recorder) -> None:
        with contextlib.suppress(ActorStopped):
            recorder.context.run(asyncio.Event().wait(), name="endless")

    async def fail_and_begin_work(recorder: Recorder) -> None:
        try:
            raise Crash("as told")
        finally:
            begin_endless_work(recorder)

    async def interrupted(recorder: Recorder) -> None:
        recorder.context.run(fail_and_begin_work(recorder), name="fails")
        try:
            await asyncio.Event().wait()
        finally:
            begin_endless_work(recorder)

    async with ActorSystem("node") as system:
        for act in (fail_and_begin_work, interrupted):
            actor = await system.spawn(Recorder, name="actor", restart=RestartPolicy.TEMPORARY)
            await actor.tell(act)
            await actor.wait_stopped()


async def test_no_child_is_spawned_once_the_actor_ends() -> None:
    class Late(Recorder):
        async def on_stop(self) -> None:
            with pytest.raises(ActorStopped):
                await self.context.spawn(Recorder, name="child-2")

    class Parent(Late):
        async def on_start(self) -> None:
            await self.context.spawn(Recorder, name="child")

    async with ActorSystem("node") as system:
        for factory in (Late, Parent):
            await (await system.spawn(factory, name="actor")).stop()
        assert system.statistics().actors == ()


async def test_tasks_have_names_that_lead_to_their_actor() -> None:
    async def name_it(recorder: Recorder) -> str:
        task = recorder.context.run(settle(), name="read")
        return task.get_name()

    async with ActorSystem("node") as system:
        actor = await system.spawn(Recorder, name="actor")
        assert await actor.ask(name_it, timeout_s=1) == "node/actor:read"


async def test_after_tells_once(clock: ManualClock) -> None:
    class Alarm(Recorder):
        async def on_start(self) -> None:
            self.context.after(5, "alarm")

    async with ActorSystem("node", clock=clock) as system:
        alarm = await system.spawn(Alarm, name="alarm")
        await clock.advance(4.9)
        assert await seen_by(alarm) == []
        await clock.advance(10)
        assert await seen_by(alarm) == ["alarm"]


async def test_every_tells_once_per_period(clock: ManualClock) -> None:
    class Beat(Recorder):
        async def on_start(self) -> None:
            self.context.every(2, "beat")

    async with ActorSystem("node", clock=clock) as system:
        beat = await system.spawn(Beat, name="beat")
        await clock.advance(7)
        assert await seen_by(beat) == ["beat"] * 3


async def test_every_keeps_its_grid_and_leaves_out_what_it_missed(clock: ManualClock) -> None:
    """A tick that waited for room comes late; the next one comes when it would have come anyway."""
    gate = asyncio.Event()

    class Busy(Recorder):
        async def on_start(self) -> None:
            self.context.every(2, "beat")

    async with ActorSystem("node", clock=clock) as system:
        busy = await system.spawn(Busy, name="busy", mailbox_capacity=1)
        await busy.tell(gate)
        await settle()
        await busy.tell("fills it")
        await clock.advance(7)  # ticks at 2 (waits for room), 4 and 6 (left out)
        gate.set()
        await settle()
        assert await seen_by(busy) == ["fills it", "beat"]
        assert clock.delays_s == [1]


async def test_timer_can_be_cancelled(clock: ManualClock) -> None:
    class Alarm(Recorder):
        async def on_start(self) -> None:
            self.context.after(5, "alarm").cancel()
            self.context.every(5, "beat").cancel()

    async with ActorSystem("node", clock=clock) as system:
        alarm = await system.spawn(Alarm, name="alarm")
        await clock.advance(20)
        assert await seen_by(alarm) == []


async def test_timers_end_with_the_life_that_set_them(clock: ManualClock) -> None:
    async def set_alarm(recorder: Recorder) -> None:
        recorder.context.after(5, "alarm")

    async with ActorSystem("node", clock=clock, supervision=Supervision(backoff_s=0)) as system:
        actor = await system.spawn(Recorder, name="actor")
        await actor.tell(set_alarm)
        await actor.tell("crash")
        await clock.advance(20)
        assert await seen_by(actor) == []


async def test_period_is_more_than_zero() -> None:
    async def beat(recorder: Recorder) -> None:
        recorder.context.every(0, "beat")

    async with ActorSystem("node") as system:
        actor = await system.spawn(Recorder, name="actor", restart=RestartPolicy.TEMPORARY)
        with pytest.raises(ActorFailed, match="period_s is more than 0"):
            await actor.ask(beat, timeout_s=1)


async def test_supervisor_of_children_is_not_counted_as_work_of_messages() -> None:
    """Children may be spawned at any message, and end with their parent."""
    diary: list[str] = []

    async def spawn(recorder: Recorder) -> None:
        name = f"child-{len(diary)}"
        await recorder.context.spawn(lambda: Recorder(diary, name=name), name=name)

    async with ActorSystem("node") as system:
        parent = await system.spawn(Recorder, name="parent")
        for _ in range(2):
            await parent.ask(spawn, timeout_s=1)
        await parent.stop()
        await wait_until(lambda: len(system.statistics().actors) == 0)
    assert diary == ["start child-0", "start child-1", "stop child-1", "stop child-0"]
