"""Deadlines, cancelling, closing: who waits wakes with the right error, and workers stop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from parrot_mq.actors import ActorSystem
from parrot_mq.bus import Delivery, Handler, MemoryBus, MemoryServer, Subscription
from parrot_mq.errors import DeadlineExceeded, InputFailed, SessionClosed, TaskCancelled, VariableAlreadySet
from parrot_mq.messages import STREAM_VARS
from tests.coordinator.holding_engine import Gate
from tests.coordinator.programs import Program, program, ref, task
from tests.coordinator.service import Service, eventually, expected, raised_by, running_service

# -- deadlines -------------------------------------------------------------------------------------------------------


async def test_a_task_whose_inputs_do_not_come_in_time_fails() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{x}}{{out}}", reads={"x": ref("never")}, timeout_s=0.05)
        error = await run.error("out")
        assert isinstance(error, DeadlineExceeded)
        assert error.timeout_s == 0.05
        await eventually(service.is_all_done)


async def test_a_task_for_which_no_worker_has_room_in_time_fails_and_is_never_run() -> None:
    gate = Gate()
    async with running_service(workers=()) as service, program(service) as run:
        await service.add_holding_worker(gate=gate, num_slots=1)
        await run.run("HOLD{{out}}", writes="first")
        await eventually(lambda: gate.num_held("first") == 1)
        await run.run("queued{{out}}", writes="second", timeout_s=0.05)
        assert isinstance(await run.error("second"), DeadlineExceeded)
        gate.open()
        assert await run.get("first") == expected("HOLD")
        await eventually(service.is_all_done)
        assert service.assignments("second") == []


async def test_a_task_that_runs_too_long_fails_and_its_worker_stops_it() -> None:
    gate = Gate()
    async with running_service(workers=()) as service, program(service) as run:
        await service.add_holding_worker(gate=gate)
        await run.run("HOLD{{out}}", timeout_s=0.1)
        await run.run("{{x}}{{out}}", reads={"x": ref("out")}, writes="after")
        assert isinstance(await run.error("out"), DeadlineExceeded)
        assert (await run.error("after")).facts["cause_code"] == "deadline_exceeded"
        await eventually(lambda: gate.was_cancelled("out"))
        await eventually(service.is_all_done)


async def test_every_output_of_a_late_task_fails() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{x}}{{a}} and {{b}}", reads={"x": ref("n")}, writes={"a": "a", "b": "b"}, timeout_s=0.02)
        assert isinstance(await run.error("a"), DeadlineExceeded)
        assert isinstance(await run.error("b"), DeadlineExceeded | InputFailed)


async def test_a_deadline_holds_for_its_own_task_and_not_for_one_of_the_same_name_that_comes_later() -> None:
    async with running_service() as service, program(service) as run:
        await run.submit(task("{{x}}{{out}}", reads={"x": "1"}, timeout_s=0.3), name="t")
        await run.get("out")
        await eventually(service.is_all_done)
        record = task("{{x}}{{out}}", reads={"x": ref("later")}, writes="second")
        await run.submit(record, name="t")
        await run.run("{{x}}{{out}}", reads={"x": ref("never")}, writes="clock", timeout_s=0.4)
        assert isinstance(await run.error("clock"), DeadlineExceeded)
        await run.set("later", "2")
        assert await run.get("second") == expected("2")


async def test_deadlines_pass_in_their_own_order() -> None:
    async with running_service() as service, program(service) as run:
        for name, timeout_s in (("slow", 30.0), ("quick", 0.05), ("slower", 60.0), ("middle", 0.1)):
            await run.run("{{x}}{{out}}", reads={"x": ref("never")}, writes=name, timeout_s=timeout_s)
        await run.error("middle")
        assert run.num_stored("quick") == 1
        assert run.num_stored("slow") == 0


# -- cancelling ------------------------------------------------------------------------------------------------------


async def _start_held(service: Service, gate: Gate, run: Program, variable: str = "out") -> None:
    """Let a worker run something that it does not finish."""
    await service.add_holding_worker(gate=gate)
    await run.run("HOLD{{out}}", writes=variable)
    await eventually(lambda: gate.num_held(variable) == 1)


async def test_cancelling_what_runs_stops_it() -> None:
    gate = Gate()
    async with running_service(workers=()) as service, program(service) as run:
        await _start_held(service, gate, run)
        await run.run("{{x}}{{out}}", reads={"x": ref("out")}, writes="after")
        assert await run.session.cancel("out") == 1
        assert isinstance(await run.error("out"), TaskCancelled)
        assert (await run.error("after")).facts["cause_code"] == "task_cancelled"
        await eventually(lambda: gate.was_cancelled("out"))
        await eventually(service.is_all_done)


async def test_cancelling_what_waits_ends_the_waiting() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{x}}{{out}}", reads={"x": ref("never")}, writes="a")
        await run.run("{{x}}{{out}}", reads={"x": ref("never")}, writes="b", timeout_s=600)
        assert await run.session.cancel("a") == 1
        assert isinstance(await run.error("a"), TaskCancelled)
        assert run.num_stored("b") == 0


async def test_cancelling_a_session_gives_up_all_of_its_tasks_and_no_other() -> None:
    async with running_service() as service, program(service) as run, program(service) as other:
        for one in (run, other):
            for i in range(5):
                await one.run("{{x}}{{out}}", reads={"x": ref("x")}, writes=f"v{i}")
        assert await run.session.cancel() == 5
        for i in range(5):
            assert isinstance(await run.error(f"v{i}"), TaskCancelled)
        await other.set("x", "1")
        assert await other.get("v4") == expected("1")
        await eventually(service.is_all_done)


async def test_cancelling_what_is_done_or_unknown_changes_nothing() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("done{{out}}")
        await run.get("out")
        assert await run.session.cancel("out") == 0
        assert await run.session.cancel("unknown") == 0
        assert await run.get("out") == expected("done")


async def test_cancelling_gives_up_all_outputs_of_the_task() -> None:
    async with running_service() as service, program(service) as run:
        await run.run("{{x}} {{a}} and {{b}}", reads={"x": ref("x")}, writes={"a": "a", "b": "b"})
        assert await run.session.cancel("b") == 1
        assert isinstance(await run.error("a"), TaskCancelled)
        assert isinstance(await run.error("b"), TaskCancelled | InputFailed)
        await eventually(service.is_all_done)


class _LateBus(MemoryBus):
    """Delivers no task before it is told to, and counts the requests that come."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.may_deliver = asyncio.Event()
        self.num_requests = 0

    async def take(self, stream: str, handler: Handler, *, consumer: str) -> Subscription:
        async def handle_late(delivery: Delivery) -> None:
            await self.may_deliver.wait()
            await handler(delivery)

        return await super().take(stream, handle_late, consumer=consumer)

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        async def handle_and_count(delivery: Delivery) -> None:
            self.num_requests += ".control." in delivery.subject
            await handler(delivery)

        return await super().subscribe(subject, handle_and_count, queue=queue)


async def test_a_cancel_does_not_overtake_the_tasks_that_were_stored_before_it() -> None:
    """The request comes by another way than the task, which the coordinator may get later."""
    async with running_service(None) as service, program(service) as run:
        bus = _LateBus(service.server)
        await service.add_coordinator(bus=bus)
        await run.run("{{x}}{{out}}", reads={"x": ref("never")})
        cancelling = service.group.create_task(run.session.cancel())
        await eventually(lambda: bus.num_requests == 1)
        bus.may_deliver.set()
        assert await cancelling == 1
        assert isinstance(await run.error("out"), TaskCancelled)


class _HeldBus(MemoryBus):
    """Answers no look-up before it is told to."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.is_asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def get(self, stream: str, subjects: Sequence[str]) -> dict[str, Delivery]:
        self.is_asked.set()
        await self.may_answer.wait()
        return await super().get(stream, subjects)


async def test_a_cancel_holds_for_tasks_that_wait_for_a_session_that_is_busy() -> None:
    async with running_service(None) as service, program(service) as run:
        bus = _HeldBus(service.server)
        system = await service.add_visible_coordinator(bus=bus)
        await run.run("{{x}}{{out}}", reads={"x": ref("never")}, writes="a")
        await bus.is_asked.wait()
        await run.run("{{x}}{{out}}", reads={"x": ref("never")}, writes="b")
        cancelling = service.group.create_task(run.session.cancel())
        await eventually(lambda: _depth(system, "session-") == 3)  # the first task once more, the second, the request
        bus.may_answer.set()
        assert await cancelling == 2


def _depth(system: ActorSystem, name: str) -> int:
    """How many messages wait for the actors of a name."""
    return sum(actor.mailbox.depth for actor in system.statistics().actors if f"/{name}" in actor.address)


async def test_who_sets_a_variable_that_is_being_generated_wins_and_the_worker_stops() -> None:
    gate = Gate()
    async with running_service(workers=()) as service, program(service) as run:
        await _start_held(service, gate, run)
        await run.session.set("out", "mine")
        await eventually(lambda: gate.was_cancelled("out"))
        assert await run.get("out") == "mine"
        await eventually(service.is_all_done)
        assert run.num_stored("out") == 1


async def test_a_variable_is_set_once() -> None:
    async with running_service() as service, program(service) as run:
        await run.session.set("x", "one")
        await run.session.set("x", "one")
        error = await raised_by(run.session.set("x", "two"))
        assert isinstance(error, VariableAlreadySet)
        assert await run.get("x") == "one"
        assert run.num_stored("x") == 1


# -- closing ---------------------------------------------------------------------------------------------------------


async def test_closing_cancels_purges_and_wakes_who_waits() -> None:
    gate = Gate()
    async with running_service(workers=()) as service, program(service, "demo") as run, program(service, "demo") as who:
        await run.set("x", "1")
        await _start_held(service, gate, run)
        waiting = service.group.create_task(who.error("out"))
        waiting_here = service.group.create_task(run.error("never"))
        await eventually(lambda: _is_waited_for(who, "out") and _is_waited_for(run, "never"))
        assert await run.session.close() == 1
        assert isinstance(await waiting, TaskCancelled)
        assert isinstance(await waiting_here, SessionClosed)
        await eventually(lambda: gate.was_cancelled("out"))
        await eventually(service.is_all_done)
        assert await service.bus.is_empty(STREAM_VARS, "pmq.default.var.demo.>")


def _is_waited_for(run: Program, variable: str) -> bool:
    return variable in run.session._values._futures


@pytest.mark.parametrize("is_named", [True, False])
async def test_a_session_that_is_closed_takes_no_calls_and_gives_no_values(is_named: bool) -> None:
    async with running_service() as service, service.client().session("demo" if is_named else "") as session:
        await session.set("x", "1")
        assert await session.get("x", 5) == "1"
        await session.close()
        for waiting in (session.get("x", 5), session.set("y", "2"), session.cancel(), session.close()):
            assert isinstance(await raised_by(waiting), SessionClosed)
        with pytest.raises(SessionClosed):
            [piece async for piece in session.stream("x", 5)]


async def test_the_name_of_a_closed_session_may_be_used_again_with_the_same_variables() -> None:
    async with running_service() as service:
        for number in range(5):
            async with program(service, "demo") as run:
                await run.run("{{x}}{{out}}", reads={"x": ref("x")})
                await run.run("{{x}}{{out}}", reads={"x": ref("never")}, writes="cancelled")
                await run.set("x", str(number))
                assert await run.get("out") == expected(str(number))
                assert await run.session.close() == 1, "the task that was cancelled last time is another"
        await eventually(service.is_all_done)
        assert service.num_stored["demo.out"] == 5


async def test_a_session_of_its_own_is_closed_with_its_block() -> None:
    async with running_service() as service:
        async with service.client().session() as session:
            await session.set("x", "1")
        assert await service.bus.is_empty(STREAM_VARS, f"pmq.default.var.{session.name}.>")


async def test_a_named_session_stays_when_its_block_ends() -> None:
    async with running_service() as service:
        async with program(service, "demo") as run:
            await run.run("later{{out}}")
        async with program(service, "demo") as run:
            assert await run.get("out") == expected("later")
