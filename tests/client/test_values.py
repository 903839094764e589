"""What a client knows of a session's variables, and when it looks again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from parrot_mq.bus import Delivery, MemoryBus, MemoryServer, fail_variable, set_variable
from parrot_mq.client import values as values_module
from parrot_mq.client.values import SessionValues
from parrot_mq.errors import DeadlineExceeded, RequestTimeout, TaskCancelled
from parrot_mq.messages import ErrorInfo, VariableAddress
from parrot_mq.types import SessionId, TenantId, VariableId
from tests.coordinator.service import eventually, raised_by

CLOSED = ErrorInfo(code="session_closed", message="closed")


class _CountingBus(MemoryBus):
    """Counts look-ups; fails them when it is told to."""

    num_gets = 0
    fails = False

    async def get(self, stream: str, subjects: Sequence[str]) -> dict[str, Delivery]:
        self.num_gets += 1
        if self.fails:
            raise RequestTimeout(subject="get", timeout_s=0)
        return await super().get(stream, subjects)


@asynccontextmanager
async def _listening(server: MemoryServer) -> AsyncIterator[tuple[_CountingBus, SessionValues]]:
    async with _CountingBus(server) as bus, asyncio.TaskGroup() as group:
        values = SessionValues(bus, TenantId("t"), SessionId("s"))
        await values.start()
        rereading = group.create_task(values.reread())
        yield bus, values
        rereading.cancel()
        await values.aclose(CLOSED)


def _address(variable: str) -> VariableAddress:
    return VariableAddress(TenantId("t"), SessionId("s"), VariableId(variable))


async def test_a_value_that_was_set_before_is_read(memory_server: MemoryServer) -> None:
    async with _listening(memory_server) as (bus, values):
        await set_variable(bus, _address("x"), "early")
        assert await values.wait("x", 5) == "early"
        assert bus.num_gets == 1


async def test_a_value_that_is_set_later_arrives_as_an_event(memory_server: MemoryServer) -> None:
    async with _listening(memory_server) as (bus, values):
        future = await values.future("x")
        await set_variable(bus, _address("x"), "late")
        async with asyncio.timeout(5):
            assert await future == "late"
        assert bus.num_gets == 1


async def test_a_new_variable_is_not_looked_up(memory_server: MemoryServer) -> None:
    async with _listening(memory_server) as (bus, values):
        values.expect("x", is_new=True)
        await set_variable(bus, _address("x"), "text")
        assert await values.wait("x", 5) == "text"
        assert bus.num_gets == 0


async def test_a_variable_that_may_be_set_already_is_looked_up_by_its_first_reader(memory_server: MemoryServer) -> None:
    async with _listening(memory_server) as (bus, values):
        await set_variable(bus, _address("x"), "text")
        values.expect("x", is_new=False)
        assert await values.wait("x", 5) == "text"
        assert await values.wait("x", 5) == "text"
        assert bus.num_gets == 1


async def test_an_error_is_a_value(memory_server: MemoryServer) -> None:
    async with _listening(memory_server) as (bus, values):
        await fail_variable(bus, _address("x"), TaskCancelled(task="t"))
        value = await values.wait("x", 5)
        assert isinstance(value, ErrorInfo)
        assert value.code == "task_cancelled"


async def test_who_waits_too_long_gets_an_error_and_may_wait_again(memory_server: MemoryServer) -> None:
    async with _listening(memory_server) as (bus, values):
        error = await raised_by(values.wait("x", 0.01))
        assert isinstance(error, DeadlineExceeded)
        assert "'x' was not done within 0.01 s" in error.message
        await set_variable(bus, _address("x"), "text")
        assert await values.wait("x", 5) == "text"


async def test_after_a_reconnection_what_is_waited_for_is_read_again(memory_server: MemoryServer) -> None:
    async with _listening(memory_server) as (bus, values):
        future = await values.future("x")
        memory_server.fault = lambda message: []  # nobody hears of it
        await set_variable(bus, _address("x"), "missed")
        assert not future.done()
        memory_server.go_down()
        memory_server.come_up()
        async with asyncio.timeout(5):
            assert await future == "missed"


async def test_what_is_waited_for_is_read_again_from_time_to_time(
    memory_server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values_module, "REREAD_S", 0.02)
    async with _listening(memory_server) as (bus, values):
        future = await values.future("x")
        memory_server.fault = lambda message: []
        bus.fails = True
        await set_variable(bus, _address("x"), "missed")
        await eventually(lambda: bus.num_gets > 3)
        bus.fails = False
        async with asyncio.timeout(5):
            assert await future == "missed"


async def test_what_is_known_is_not_read_again(memory_server: MemoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values_module, "REREAD_S", 0.005)
    async with _listening(memory_server) as (bus, values):
        await set_variable(bus, _address("x"), "text")
        await values.wait("x", 5)
        await values.future("never")
        num_gets = bus.num_gets
        await eventually(lambda: bus.num_gets > num_gets + 2)
        assert await values.wait("x", 5) == "text"


async def test_a_reader_that_is_cancelled_disturbs_no_other(memory_server: MemoryServer) -> None:
    async with _listening(memory_server) as (bus, values), asyncio.TaskGroup() as group:
        impatient, patient = [group.create_task(values.wait("x", 10)) for _ in range(2)]
        await eventually(lambda: bus.num_gets > 0)
        impatient.cancel()
        await asyncio.wait([impatient])
        await set_variable(bus, _address("x"), "text")
        assert await patient == "text"


async def test_closing_wakes_who_waits(memory_server: MemoryServer) -> None:
    async with _listening(memory_server) as (bus, values), asyncio.TaskGroup() as group:
        waiting = group.create_task(values.wait("x", 10))
        await eventually(lambda: bus.num_gets > 0)
        await values.aclose(CLOSED)
        assert await waiting == CLOSED


async def test_foreign_subjects_of_the_session_are_ignored(memory_server: MemoryServer) -> None:
    async with _listening(memory_server) as (bus, values):
        future = await values.future("x")
        for subject in ("pmq.t.var.s.x.y", "pmq.t.var.s.a!b", "pmq.t.set.s"):
            await bus.publish(subject, b"?")
        await set_variable(bus, _address("x"), "text")
        async with asyncio.timeout(5):
            assert await future == "text"
