"""Telling and asking one actor: order, back-pressure, answers, errors."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest

from parrot_mq.actors import Actor, ActorRef, ActorSystem, RestartPolicy
from parrot_mq.actors.ref import Ask
from parrot_mq.errors import (
    ActorFailed,
    AskTimeout,
    MailboxFull,
    TransformError,
)
from tests.actors.helpers import Crash, Recorder, seen_by, settle


async def test_tells_are_handled_in_order() -> None:
    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder")
        for number in range(100):
            await recorder.tell(number)
        assert await seen_by(recorder) == list(range(100))


async def test_ask_is_answered_with_what_receive_returns() -> None:
    class Doubler(Actor):
        async def receive(self, message: int) -> int:
            return 2 * message

    async with ActorSystem("node") as system:
        doubler = await system.spawn(Doubler, name="doubler")
        assert await doubler.ask(21, timeout_s=1) == 42


async def test_tell_with_room_does_not_yield() -> None:
    """The hot path: a sender goes on at once, so many tells cost one turn of the loop."""
    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder")
        await recorder.tell("a")
        assert system.statistics().actors[0].mailbox.depth == 1


async def test_messages_are_handled_one_at_a_time() -> None:
    running = 0

    async def overlap(_: Recorder) -> int:
        nonlocal running
        running += 1
        most = running
        await settle()
        running -= 1
        return most

    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder")
        async with asyncio.TaskGroup() as group:
            asks = [group.create_task(recorder.ask(overlap, timeout_s=5)) for _ in range(5)]
        assert [ask.result() for ask in asks] == [1] * 5


async def test_tell_waits_while_the_mailbox_is_full() -> None:
    async with ActorSystem("node") as system, asyncio.TaskGroup() as group:
        recorder = await system.spawn(Recorder, name="recorder", mailbox_capacity=1)
        gate = await _make_busy(recorder)
        await recorder.tell("first")
        sender = group.create_task(recorder.tell("second"))
        await settle()
        assert not sender.done()
        gate.set()
        await sender
        assert await seen_by(recorder) == ["first", "second"]


async def test_tell_nowait_raises_when_the_mailbox_is_full() -> None:
    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder", mailbox_capacity=1)
        gate = await _make_busy(recorder)
        recorder.tell_nowait("first")
        with pytest.raises(MailboxFull):
            recorder.tell_nowait("second")
        gate.set()
        assert await seen_by(recorder) == ["first"]


async def test_actor_that_tells_itself_into_a_full_mailbox_is_refused() -> None:
    async def fill(recorder: Recorder) -> str:
        recorder.context.tell_self_nowait("one")
        with pytest.raises(MailboxFull):
            await recorder.context.ref.tell("two")
        return "refused"

    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder", mailbox_capacity=1)
        assert await recorder.ask(fill, timeout_s=1) == "refused"


async def test_actor_that_asks_itself_is_refused() -> None:
    async def ask_itself(recorder: Recorder) -> str:
        with pytest.raises(RuntimeError, match="asks itself"):
            await recorder.context.ref.ask("seen", timeout_s=1)
        return "refused"

    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder")
        assert await recorder.ask(ask_itself, timeout_s=1) == "refused"


async def test_parrot_error_answers_an_ask_and_the_actor_goes_on() -> None:
    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder")
        await recorder.tell("kept")
        with pytest.raises(TransformError):
            await recorder.ask("refuse", timeout_s=1)
        assert await seen_by(recorder) == ["kept"]


async def test_parrot_error_in_answer_to_a_tell_fails_the_actor() -> None:
    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder", restart=RestartPolicy.TEMPORARY)
        await recorder.tell("refuse")
        await recorder.wait_stopped()


async def test_other_errors_fail_the_actor_and_tell_the_asker_why() -> None:
    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder", restart=RestartPolicy.TEMPORARY)
        with pytest.raises(ActorFailed, match="Crash: as told"):
            await recorder.ask("crash", timeout_s=1)
        await recorder.wait_stopped()


async def test_asker_learns_of_a_failure_before_the_actor_has_ended() -> None:
    gate = asyncio.Event()

    class Slow(Recorder):
        async def on_stop(self) -> None:
            await gate.wait()

    async with ActorSystem("node") as system:
        slow = await system.spawn(Slow, name="slow", restart=RestartPolicy.TEMPORARY)
        with pytest.raises(ActorFailed):
            await slow.ask("crash", timeout_s=1)
        gate.set()


async def test_cancelled_error_that_nobody_caused_fails_the_actor() -> None:
    """Awaiting something that was cancelled is a failure; taken for a cancellation it would end the actor silently."""

    async def await_cancelled(_: Recorder) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder", restart=RestartPolicy.TRANSIENT)
        with pytest.raises(ActorFailed, match="CancelledError"):
            await recorder.ask(await_cancelled, timeout_s=1)
        assert await recorder.ask("seen", timeout_s=5) == []


async def test_ask_times_out() -> None:
    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder")
        gate = asyncio.Event()
        with pytest.raises(AskTimeout, match=r"node/recorder.*0\.01 s"):
            await recorder.ask(gate, timeout_s=0.01)
        gate.set()


async def test_timeout_counts_the_wait_for_room() -> None:
    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder", mailbox_capacity=1)
        gate = await _make_busy(recorder)
        await recorder.tell("fills it")
        with pytest.raises(AskTimeout):
            await recorder.ask("seen", timeout_s=0.01)
        assert system.statistics().actors[0].mailbox.num_waiting == 0
        gate.set()


async def test_timeout_error_as_an_answer_is_not_taken_for_a_timeout_of_the_ask() -> None:
    async def answer(_: Recorder) -> None:
        raise AskTimeout(address="node/other", timeout_s=7)

    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder")
        with pytest.raises(AskTimeout, match="node/other"):
            await recorder.ask(answer, timeout_s=1)


async def test_failure_that_no_asker_looks_at_is_no_noise() -> None:
    """The loop reports futures whose exception nobody retrieved; an asker that gave up is no reason to."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    ask = Ask("message")
    ask.fail(Crash("as told"))
    del ask
    gc.collect()
    assert reports == []


async def test_ask_that_was_given_up_before_it_was_begun_is_not_handled() -> None:
    async with ActorSystem("node") as system, asyncio.TaskGroup() as group:
        recorder = await system.spawn(Recorder, name="recorder")
        gate = await _make_busy(recorder)
        asker = group.create_task(recorder.ask("given up", timeout_s=5))
        await settle()
        asker.cancel()
        gate.set()
        assert await seen_by(recorder) == []


async def test_busy_actor_gives_others_a_turn() -> None:
    """An actor whose mailbox never empties must not starve the loop."""

    async def go_on(recorder: Recorder) -> None:
        if not is_done:
            recorder.context.tell_self_nowait(go_on)

    is_done = False
    async with ActorSystem("node") as system:
        recorder = await system.spawn(Recorder, name="recorder")
        await recorder.tell(go_on)
        await settle()
        is_done = True


async def test_actor_has_to_define_receive() -> None:
    async with ActorSystem("node") as system:
        actor = await system.spawn(Actor, name="actor", restart=RestartPolicy.TEMPORARY)
        with pytest.raises(ActorFailed, match="must define receive"):
            await actor.ask("anything", timeout_s=1)


async def test_local_tells_are_fast() -> None:
    """A guard against a hot path that has grown by an order of magnitude; the benchmark has the numbers."""
    async with ActorSystem("node") as system:
        recorder = await system.spawn(_Sink, name="sink")
        started = time.thread_time()  # others may have the processor
        for number in range(20_000):
            await recorder.tell(number)
        await recorder.ask(0, timeout_s=5)
        assert time.thread_time() - started < 1.0


class _Sink(Actor):
    async def receive(self, message: object) -> None:
        pass


async def _make_busy(recorder: ActorRef) -> asyncio.Event:
    """Let the actor wait for the returned event, with an empty mailbox behind it."""
    gate = asyncio.Event()
    await recorder.tell(gate)
    await settle()
    return gate
