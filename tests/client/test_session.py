"""A session as a program sees it: calls, values, errors, life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from parrot_workers.testing import local_service

from parrot_mq.bus import BusConfig, MemoryBus, MemoryServer, Stored
from parrot_mq.client import Client, Session, control, outbox, submission
from parrot_mq.coordinator import CoordinatorConfig
from parrot_mq.errors import (
    CallError,
    CapacityExhausted,
    ConnectFailed,
    DeadlineExceeded,
    DuplicateProducer,
    EngineFailure,
    InputFailed,
    InvalidName,
    NoResponders,
    PayloadTooLarge,
    SessionClosed,
    TaskCancelled,
    VariableAlreadySet,
)
from parrot_mq.messages import STREAM_VARS
from parrot_mq.program import Input, Output, current_session, semantic_function
from tests.coordinator.holding_engine import Gate
from tests.coordinator.service import Service, eventually, expected, make_engine, raised_by, running_service


@semantic_function
def ask(text: Input, reply: Output = Output(max_tokens=100)) -> None:
    """Q: {{text}} A: {{reply}}"""


@semantic_function
def pair(text: Input, first: Output = Output(), second: Output = Output()) -> None:
    """{{text}} one {{first}} two {{second}}"""


@semantic_function
def combine(parts: Input, result: Output = Output()) -> None:
    """All: {{parts}} = {{result}}"""


def q(text: str) -> str:
    """What `ask` answers."""
    return expected(f"Q: {text} A: ")


# -- calls -----------------------------------------------------------------------------------------------------------


async def test_a_call_returns_a_variable_at_once_and_awaiting_it_reads_its_text() -> None:
    async with running_service() as service, service.client().session():
        assert await ask(text="why") == q("why")


async def test_calls_are_joined_by_their_variables_without_waiting() -> None:
    async with running_service() as service, service.client().session():
        first = ask(text="one")
        assert await ask(text=first) == q(q("one"))


async def test_several_outputs() -> None:
    async with running_service() as service, service.client().session():
        first, second = pair.outputs(text="x")
        one = expected("x one ")
        assert await second == expected(f"x one {one} two ")
        assert await first == one


async def test_a_map_and_a_reduce() -> None:
    async with running_service() as service, service.client().session():
        parts = [ask(text=str(number)) for number in range(30)]
        joined = "\n".join(q(str(number)) for number in range(30))
        assert await combine(parts=parts) == expected(f"All: {joined} = ")


async def test_texts_and_variables_mix_in_a_list() -> None:
    async with running_service() as service, service.client().session() as session:
        x = session.variable("x")
        result = combine(parts=["a", x, "b"])
        await x.set("X")
        assert await result == expected("All: a\nX\nb = ")


async def test_a_call_outside_a_session_says_what_to_do() -> None:
    with pytest.raises(CallError, match="outside a session"):
        ask(text="x")


async def test_a_call_through_using_goes_to_its_session() -> None:
    async with running_service() as service, service.client().session() as outer, service.client().session() as inner:
        assert current_session.get() is inner
        variable = ask.using(session=outer)(text="x")
        assert variable.session is outer
        assert await variable == q("x")


async def test_a_session_is_current_in_its_block_only() -> None:
    async with running_service() as service:
        async with service.client().session() as session:
            assert current_session.get() is session
        assert current_session.get() is None


async def test_a_name_can_be_chosen_for_an_output() -> None:
    async with running_service() as service, service.client().session() as session:
        variable = ask.using(names={"reply": "answer"})(text="x")
        assert variable.id == "answer"
        assert await session.get("answer") == q("x")


async def test_a_chosen_name_is_not_used_twice() -> None:
    async with running_service() as service, service.client().session():
        call = ask.using(names={"reply": "answer"})
        call(text="x")
        with pytest.raises(DuplicateProducer, match="'answer' is already written by task 'ask_"):
            call(text="y")


async def test_a_fresh_name_is_not_one_that_was_chosen() -> None:
    async with running_service() as service, service.client().session():
        chosen = [
            ask.using(names={"reply": f"reply_{number + 30}"})(text=f"chosen {number}") for number in range(1, 20)
        ]
        fresh = [ask(text=f"fresh {number}") for number in range(20)]
        assert [await one for one in chosen] == [q(f"chosen {number}") for number in range(1, 20)]
        assert [await one for one in fresh] == [q(f"fresh {number}") for number in range(20)]
        assert len({one.id for one in chosen + fresh}) == 39


async def test_the_time_of_a_call_is_its_own_or_the_sessions() -> None:
    async with running_service(workers=()) as service, service.client().session(timeout_s=0.05) as session:
        short, long = ask(text="x"), ask.using(timeout_s=30)(text="y")
        assert isinstance(await raised_by(short.get()), DeadlineExceeded)
        assert session._limit(short.id, None) == pytest.approx(5.05)
        assert session._limit(long.id, None) == pytest.approx(35)
        assert session._limit("unknown", None) == pytest.approx(5.05)
        assert session._limit(long.id, 1.0) == 1.0


async def test_the_model_of_a_call_is_its_own_or_the_sessions() -> None:
    async with running_service(workers=()) as service:
        await service.add_worker("w1", model="small")
        await service.add_worker("w2", model="large")
        async with service.client().session(model="small"):
            one, two = ask(text="1"), ask.using(model="large")(text="2")
            assert (await one, await two) == (q("1"), q("2"))
            assert (service.assignments(one.id), service.assignments(two.id)) == (["w1"], ["w2"])


async def test_too_many_unsent_calls_are_refused_and_flushing_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_UNSENT", 5)
    async with running_service() as service, service.client().session() as session:
        for number in range(5):
            ask(text=str(number))
        with pytest.raises(CapacityExhausted, match="flush"):
            ask(text="one too many")
        await session.flush()
        assert await ask(text="fits") == q("fits")


async def test_after_a_flush_the_tasks_are_stored() -> None:
    async with running_service(None, workers=()) as service, service.client().session("demo") as session:
        for number in range(100):
            ask(text=str(number))
        await session.flush()
        assert service.server.streams["PMQ_TASKS"].last_sequence == 100


# -- large inputs ----------------------------------------------------------------------------------------------------


class _CountingBus(MemoryBus):
    """Counts the texts that are sent."""

    num_texts = 0

    async def publish_once(self, subject: str, payload: bytes, *, headers: Mapping[str, str] | None = None) -> Stored:
        self.num_texts += ".text-" in subject
        return await super().publish_once(subject, payload, headers=headers)


async def test_a_long_text_goes_ahead_as_a_variable_and_once_however_often_it_is_read() -> None:
    text = "long " * 10_000
    async with running_service() as service, _CountingBus(service.server) as bus, Client(bus).session():
        answers = [ask(text=text) for _ in range(10)]
        for answer in answers:
            assert await answer == q(text)
        assert await ask(text=text) == q(text)
        assert bus.num_texts == 1


async def test_an_input_of_three_megabytes() -> None:
    text = "x" * 3_000_000
    async with running_service() as service, service.client().session():
        assert await ask(text=text) == q(text)


async def test_many_short_texts_fit_a_message() -> None:
    texts = [f"{number} " * 1_000 for number in range(400)]
    async with running_service() as service, service.client().session():
        assert await combine(parts=texts) == expected(f"All: {chr(10).join(texts)} = ")


async def test_short_texts_stay_in_the_task() -> None:
    async with running_service() as service, service.client().session() as session:
        await ask(text="x" * submission.MAX_INLINE_INPUT)
        assert not [name for name in service.num_stored if name.startswith(f"{session.name}.text-")]


async def test_a_call_that_cannot_be_sent_is_an_error_on_its_outputs_and_on_what_reads_them() -> None:
    def too_long(reply: Output = Output()) -> None: ...

    too_long.__doc__ = "x" * 2_000_000 + "{{reply}}"
    async with running_service() as service, service.client().session() as session:
        first = semantic_function(too_long)()
        second = ask(text=first)
        assert isinstance(await raised_by(first.get()), PayloadTooLarge)
        assert (await raised_by(second.get())).facts["cause_code"] == "payload_too_large"
        assert await ask(text="fine") == q("fine")
        await session.flush()


# -- variables -------------------------------------------------------------------------------------------------------


async def test_any_variable_can_be_set_and_read() -> None:
    async with running_service() as service, service.client().session() as session:
        variable = session.variable("x")
        await variable.set("text")
        assert await variable == await session.get("x") == "text"


async def test_setting_twice_is_an_error_unless_it_is_the_same() -> None:
    async with running_service() as service, service.client().session() as session:
        await session.set("x", "1")
        await session.set("x", "1")
        assert isinstance(await raised_by(session.set("x", "2")), VariableAlreadySet)


@pytest.mark.parametrize("value", [None, 5, b"bytes", "\ud800", ["a", 5], {"a"}, ["\ud800"], ["a"] * 10_001])
async def test_what_is_no_text_cannot_be_set(value: object) -> None:
    async with running_service() as service, service.client().session() as session:
        assert isinstance(await raised_by(session.set("x", value)), CallError)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "a.b", "a b", "x" * 65, "*", ">"])
async def test_names_are_checked_before_they_are_used(name: str) -> None:
    async with running_service() as service, service.client().session() as session:
        with pytest.raises(InvalidName):
            session.variable(name)
        assert isinstance(await raised_by(session.set(name, "x")), InvalidName)
        assert isinstance(await raised_by(session.get(name, 1)), InvalidName)
        if name:
            assert isinstance(await raised_by(session.cancel(name)), InvalidName)
            assert isinstance(await raised_by(_enter(service.client(), name)), InvalidName)
        with pytest.raises(InvalidName):
            service.client(name)


async def _enter(client: Client, name: str) -> None:
    async with client.session(name):
        pass


async def test_a_reader_that_waits_too_long_gets_an_error() -> None:
    async with running_service() as service, service.client().session() as session:
        started = time.monotonic()
        error = await raised_by(session.get("never", 0.05))
        assert isinstance(error, DeadlineExceeded)
        assert time.monotonic() - started < 10
        assert isinstance(await raised_by(session.variable("never").get(timeout_s=0.01)), DeadlineExceeded)


async def test_the_error_of_a_task_is_raised_by_every_reader_of_its_output() -> None:
    async with running_service() as service, service.client().session() as session:
        bad = ask(text="FAIL")
        after = ask(text=bad)
        for _ in range(2):
            assert isinstance(await raised_by(bad.get()), EngineFailure)
        assert isinstance(await raised_by(session.get(bad.id)), EngineFailure)
        error = await raised_by(after.get())
        assert isinstance(error, InputFailed)
        assert (error.variable, error.facts["cause_code"]) == (bad.id, "engine_failure")


async def test_an_error_is_no_group_also_when_several_tasks_wait() -> None:
    async with running_service() as service:
        assert isinstance(await raised_by(_gather_with_failure(service.client())), EngineFailure)


async def _gather_with_failure(client: Client) -> None:
    async with client.session():
        await asyncio.gather(ask(text="fine").get(), ask(text="FAIL").get())


async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    async with running_service() as service:
        with pytest.raises(KeyError, match="mine"):
            await _fail_in_session(service.client())


async def _fail_in_session(client: Client) -> None:
    async with client.session():
        ask(text="x")
        raise KeyError("mine")


async def test_streaming_yields_pieces_that_joined_are_the_value() -> None:
    async with running_service(workers=()) as service:
        await service.add_worker(engine=lambda: make_engine(lambda _: "once upon a time " * 5, tokens_per_step=3))
        async with service.client().session():
            variable = ask(text="x")
            pieces = [piece async for piece in variable.stream()]
            assert "".join(pieces) == await variable == ("once upon a time " * 5)[:100]
            assert len(pieces) > 1


async def test_streaming_raises_what_awaiting_raises() -> None:
    async with running_service() as service, service.client().session() as session:
        with pytest.raises(EngineFailure):
            [piece async for piece in ask(text="FAIL").stream()]
        with pytest.raises(DeadlineExceeded):
            [piece async for piece in session.stream("never", 0.02)]


async def test_cancelling_a_variable() -> None:
    gate = Gate()
    async with running_service(workers=()) as service, service.client().session():
        await service.add_holding_worker(gate=gate)
        variable = ask(text="HOLD")
        await variable.cancel()
        assert isinstance(await raised_by(variable.get()), TaskCancelled)


# -- shared sessions -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _two_clients(service: Service) -> AsyncIterator[tuple[Session, Session]]:
    """A session of one name, open at two clients."""
    async with (
        MemoryBus(service.server) as bus,
        service.client().session("demo") as one,
        Client(bus).session("demo") as other,
    ):
        yield one, other


async def test_clients_of_a_named_session_share_its_variables() -> None:
    async with running_service() as service, _two_clients(service) as (one, other):
        await one.set("x", "1")
        assert await other.get("x", 5) == "1"
        variable = ask.using(session=one)(text=one.variable("x"))
        assert await other.get(variable.id, 5) == q("1")
        assert other.variable(variable.id) == variable


async def test_clients_of_a_named_session_choose_different_names() -> None:
    async with running_service() as service, _two_clients(service) as (one, other):
        mine = [ask.using(session=one)(text=f"one {number}") for number in range(20)]
        theirs = [ask.using(session=other)(text=f"other {number}") for number in range(20)]
        assert [await each for each in mine] == [q(f"one {number}") for number in range(20)]
        assert [await each for each in theirs] == [q(f"other {number}") for number in range(20)]


async def test_a_result_with_a_chosen_name_is_found_again_by_a_later_session_of_the_same_name() -> None:
    async with running_service() as service:
        call = ask.using(names={"reply": "report"})
        async with service.client().session("demo"):
            assert await call(text="x") == q("x")
        async with service.client().session("demo"):
            assert await call(text="x").get(2) == q("x"), "without waiting for the next look"
        await eventually(service.is_all_done)
        assert service.num_stored["demo.report"] == 1


async def test_a_long_text_that_two_clients_send_is_one_variable() -> None:
    async with running_service() as service, _two_clients(service) as (one, other):
        text = "long " * 10_000
        answers = [ask.using(session=session)(text=text) for session in (one, other)]
        assert [await answer for answer in answers] == [q(text), q(text)]


# -- life ------------------------------------------------------------------------------------------------------------


async def test_a_session_that_has_ended_takes_nothing_and_gives_nothing() -> None:
    async with running_service() as service:
        async with service.client().session() as session:
            variable = ask(text="x")
            await variable
        for waiting in (variable.get(5), session.set("x", "1"), session.cancel(), session.close()):
            assert isinstance(await raised_by(waiting), SessionClosed)
        with pytest.raises(SessionClosed):
            ask.using(session=session)(text="y")
        with pytest.raises(SessionClosed):
            [piece async for piece in variable.stream()]


async def test_who_still_waits_when_the_session_ends_is_woken() -> None:
    async with running_service() as service:
        async with service.client().session() as session:
            waiting = service.group.create_task(raised_by(session.get("never", 20)))
            await eventually(lambda: "never" in session._values._futures)
        assert isinstance(await waiting, SessionClosed)


async def test_the_end_of_a_session_of_its_own_gives_up_its_tasks_and_removes_its_values() -> None:
    gate = Gate()
    async with running_service(workers=()) as service:
        await service.add_holding_worker(gate=gate)
        async with service.client().session() as session:
            variable = ask(text="HOLD")
            await eventually(lambda: gate.num_held(variable.id) == 1)
        await eventually(lambda: gate.was_cancelled(variable.id))
        await eventually(service.is_all_done)
        assert await service.bus.is_empty(STREAM_VARS, f"pmq.default.var.{session.name}.>")


async def test_without_a_coordinator_a_session_of_its_own_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "RETRIES_S", (0.001, 0.001))
    async with running_service(None, workers=()) as service:
        error = await raised_by(_enter(service.client(), ""))
        assert isinstance(error, NoResponders)
        assert "parrot-mq up" in error.message


async def test_a_coordinator_that_is_just_starting_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "RETRIES_S", (0.02,) * 200)
    async with running_service(None) as service:
        entering = service.group.create_task(_enter(service.client(), ""))
        await asyncio.sleep(0)
        await service.add_coordinator()
        await entering


async def test_without_a_coordinator_a_shared_session_works_but_cannot_be_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control, "RETRIES_S", (0.001, 0.001))
    async with running_service(None) as service, service.client().session("demo") as session:
        variable = ask(text="x")
        await session.set("y", "1")
        assert await session.get("y", 5) == "1"
        error = await raised_by(session.cancel())
        assert isinstance(error, NoResponders)
        assert "parrot-mq coordinator" in error.message
        await service.add_coordinator()
        assert await variable == q("x")


async def test_a_session_that_cannot_be_closed_ends_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_service() as service, service.client().session() as session:
        variable = ask(text="x")
        await variable
        await service.coordinators[0].stop()
    assert isinstance(await raised_by(session.get("x", 1)), SessionClosed)


async def test_when_the_server_was_away_the_calls_made_meanwhile_are_sent() -> None:
    async with running_service(CoordinatorConfig(settle_s=0)) as service, service.client().session():
        service.server.go_down()
        variable = ask(text="x")
        service.server.come_up()
        assert await variable == q("x")


async def test_a_connection_that_is_refused_is_one_clear_error() -> None:
    config = BusConfig(servers=("nats://127.0.0.1:1",), connect_timeout_s=0.2)
    error = await raised_by(_connect(config))
    assert isinstance(error, ConnectFailed)
    assert "nats://127.0.0.1:1" in error.message
    assert "parrot-mq up" in error.message


async def _connect(config: BusConfig) -> None:
    async with Client.connect(config=config):
        pass


async def test_the_service_of_the_testing_module_answers() -> None:
    async with local_service(lambda request: request.text.upper()) as client, client.session() as session:
        assert isinstance(session, Session)
        assert await ask(text="parrots") == "Q: PARROTS A: "


async def test_a_client_on_its_own_bus_can_be_used_in_memory(memory_server: MemoryServer) -> None:
    async with MemoryBus(memory_server) as bus, Client(bus, tenant="acme").session("demo") as session:
        await session.set("x", "1")
        assert repr(session) == "<Session 'demo' of tenant 'acme'>"
        assert await Client(bus, tenant="acme").bus.is_empty(STREAM_VARS, "pmq.default.>")
