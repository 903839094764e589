"""Marks from the client: with the call, later, and by waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from parrot_mq.bus import Delivery, MemoryBus, MemoryServer
from parrot_mq.client import Client, Session, control
from parrot_mq.client.submission import make_submission
from parrot_mq.coordinator.sessions.executor import GraphExecutor
from parrot_mq.errors import CallError, ConfigurationError, InvalidName, NoResponders, SessionClosed
from parrot_mq.messages import SessionMark, decode
from parrot_mq.program import Input, Output, SemanticFunction, semantic_function
from parrot_mq.types import Objective
from tests.coordinator.service import Service, eventually, raised_by, running_service


@semantic_function
def ask(text: Input, reply: Output = Output(max_tokens=1000)) -> None:
    """{{text}} {{reply}}"""


@semantic_function
def note(
    text: Input, reply: Output = Output(max_tokens=1000, objective=Objective(kind="throughput", deadline_s=60))
) -> None:
    """{{text}} {{reply}}"""


@semantic_function
def pair(text: Input, first: Output = Output(max_tokens=1000), second: Output = Output(max_tokens=1000)) -> None:
    """{{text}} {{first}} and {{second}}"""


class _Listener:
    """The marks that were sent."""

    def __init__(self) -> None:
        self.marks: list[SessionMark] = []

    @property
    def awaited(self) -> list[str]:
        """What was marked by waiting, in order."""
        return [name for mark in self.marks if mark.only_unmarked for name in mark.variables]

    async def on_mark(self, delivery: Delivery) -> None:
        self.marks.append(decode(delivery.payload, SessionMark, delivery.headers))


@asynccontextmanager
async def _listening(service: Service) -> AsyncIterator[_Listener]:
    listener = _Listener()
    async with MemoryBus(service.server) as bus:
        await bus.subscribe("pmq.*.control.*.mark", listener.on_mark)
        yield listener


@asynccontextmanager
async def _idle_session(*, marks_awaited: bool = True) -> AsyncIterator[tuple[Session, _Listener]]:
    """A session of a service without workers, where everything is waited for in vain."""
    async with (
        running_service(workers=()) as service,
        _listening(service) as listener,
        service.client().session(marks_awaited=marks_awaited) as session,
    ):
        yield session, listener


# -- said by the program ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("function", "objective"), [(note, Objective(kind="throughput", deadline_s=60)), (ask, None)])
def test_what_a_function_says_travels_with_the_task(
    function: SemanticFunction[...], objective: Objective | None
) -> None:
    call = function.bind(text="a")
    submission = make_submission(call, {"reply": "v"}, task="t", model="", timeout_s=1)
    assert submission.record.outputs["reply"].objective == objective


async def test_a_mark_arrives_behind_the_calls_that_were_made_before(monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[set[str]] = []
    mark = GraphExecutor.mark

    async def noting(self: GraphExecutor, request: SessionMark) -> None:
        known.append({str(name) for name in self.state.writers})
        await mark(self, request)

    monkeypatch.setattr(GraphExecutor, "mark", noting)
    async with running_service(workers=()) as service, service.client().session() as session:
        variables = [ask(text=str(index)) for index in range(20)]
        await session.mark(variables, "throughput")
        await variables[3].mark(Objective(tpot_ms=20))
        assert known == [{variable.id for variable in variables}] * 2


async def test_variables_are_marked_one_by_one_in_lists_and_by_name() -> None:
    async with running_service() as service, _listening(service) as listener, service.client().session() as session:
        a, b = ask(text="a"), ask(text="b")
        await session.mark(a, "latency")
        await session.mark([a, b.id], "throughput")
        await session.mark("later", Objective(deadline_s=5))
        assert [(mark.variables, mark.objective) for mark in listener.marks] == [
            ([a.id], Objective()),
            ([a.id, b.id], Objective(kind="throughput")),
            (["later"], Objective(deadline_s=5)),
        ]


async def test_very_many_variables_are_marked_in_parts() -> None:
    async with running_service() as service, _listening(service) as listener, service.client().session() as session:
        await session.mark([f"v{index}" for index in range(2500)], "throughput")
        assert [len(mark.variables) for mark in listener.marks] == [1000, 1000, 500]


async def test_a_mark_that_cannot_be_used_is_not_sent() -> None:
    async with running_service() as service, _listening(service) as listener, service.client().session() as session:
        async with service.client().session() as other:
            foreign = other.variable("x")
        for variables, mark, error in (
            ("a", "soon", ConfigurationError),
            ("a.b", "latency", InvalidName),
            (foreign, "latency", CallError),
        ):
            assert isinstance(await raised_by(session.mark(variables, mark)), error)  # type: ignore[arg-type]
        assert listener.marks == []


async def test_without_a_coordinator_a_mark_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "RETRIES_S", ())
    async with running_service(None) as service, service.client().session("shared") as session:
        error = await raised_by(session.variable("a").mark("latency"))
        assert isinstance(error, NoResponders)
        assert "no coordinator is running" in error.message


async def test_a_closed_session_takes_no_marks() -> None:
    async with running_service() as service, service.client().session() as session:
        await session.close()
        assert isinstance(await raised_by(session.mark("a", "latency")), SessionClosed)


# -- said by waiting -------------------------------------------------------------------------------------------------


async def _wait_for(session: Session, name: str) -> None:
    """Wait for something that does not come, long enough that everybody is told."""
    await raised_by(session.get(name, 0.02))


async def test_what_nobody_reads_is_awaited_without_a_word() -> None:
    async with running_service() as service, _listening(service) as listener, service.client().session():
        for number in range(5):
            await ask(text=f"turn {number}")
        assert listener.marks == []


async def test_what_is_read_elsewhere_is_marked_when_it_is_awaited_and_once() -> None:
    async with _idle_session() as (session, listener):
        part = ask(text="part")
        ask(text=part)
        for _ in range(3):
            await _wait_for(session, part.id)
        assert listener.awaited == [part.id]
        assert listener.marks[0].objective == Objective()


async def test_what_is_awaited_is_marked_when_something_begins_to_read_it() -> None:
    async with _idle_session() as (session, listener):
        part = ask(text="part")
        await _wait_for(session, part.id)
        assert listener.awaited == []
        ask(text=part)
        await eventually(lambda: listener.awaited == [part.id])


async def test_a_chat_that_reads_what_it_has_awaited_says_nothing() -> None:
    async with running_service() as service, _listening(service) as listener, service.client().session():
        history = [ask(text="hello")]
        for _ in range(5):
            await history[-1]
            history.append(ask(text=list(history)))
        await history[-1]
        assert listener.marks == []


async def test_what_is_awaited_in_one_turn_goes_in_one_message() -> None:
    async with _idle_session() as (session, listener):
        parts = [ask(text=str(index)) for index in range(50)]
        ask(text=parts)
        await asyncio.gather(*(_wait_for(session, part.id) for part in parts))
        assert [len(mark.variables) for mark in listener.marks] == [50]


async def test_streaming_is_waiting_too() -> None:
    async with _idle_session() as (session, listener):
        with pytest.raises(TimeoutError):
            [piece async for piece in session.stream("elsewhere", 0.02)]
        assert listener.awaited == ["elsewhere"]


async def test_earlier_outputs_of_a_prompt_are_read_by_later_ones() -> None:
    async with _idle_session() as (session, listener):
        first, second = pair.outputs(text="x")
        await _wait_for(session, second.id)
        await _wait_for(session, first.id)
        assert listener.awaited == [first.id]


async def test_what_the_program_has_marked_is_not_marked_by_waiting() -> None:
    async with _idle_session() as (session, listener):
        said, later = note(text="x"), ask(text="y")
        ask(text=[said, later])
        await later.mark("throughput")
        for variable in (said, later):
            await _wait_for(session, variable.id)
        assert listener.awaited == []


async def test_a_session_can_be_told_to_mark_nothing_by_waiting() -> None:
    async with _idle_session(marks_awaited=False) as (session, listener):
        part = ask(text="part")
        ask(text=part)
        await _wait_for(session, part.id)
        assert listener.marks == []


async def test_waiting_works_where_nobody_hears_of_it() -> None:
    server = MemoryServer()
    server.ensure_streams()
    async with MemoryBus(server) as bus, Client(bus).session("shared") as session, asyncio.TaskGroup() as group:
        waiting = group.create_task(session.get("x", 5))
        await session.set("x", "1")
        assert await waiting == "1"
