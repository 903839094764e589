"""What was said of variables outlives the coordinator that heard it; requests outlive the one that took them."""

from __future__ import annotations

import asyncio

import pytest

from parrot_mq.bus import Delivery, Handler, MemoryBus, MemoryServer, Subscription
from parrot_mq.client import Client, Session, control, marks
from parrot_mq.errors import PermissionDenied, RequestTimeout
from parrot_mq.messages import (
    COORDINATOR_STARTED,
    CoordinatorStarted,
    SessionMark,
    SessionReply,
    TaskEvent,
    decode,
    encode,
    encode_json,
)
from parrot_mq.program import Input, Output, semantic_function
from parrot_mq.testing import run_simulation, simulated_service
from parrot_mq.types import Objective
from tests.coordinator.service import raised_by


@semantic_function
def ask(text: Input, reply: Output = Output(max_tokens=64)) -> None:
    """{{text}} {{reply}}"""


BATCH, READER = Objective(kind="throughput", deadline_s=60), Objective(tpot_ms=20)


def _objectives(events: list[TaskEvent], variable: str) -> list[Objective | None]:
    return [event.objective for event in events if event.kind == "ready" and event.variable == variable]


def test_a_coordinator_that_takes_over_is_told_what_was_marked() -> None:
    events: list[TaskEvent] = []

    async def note(delivery: Delivery) -> None:
        events.append(decode(delivery.payload, TaskEvent, delivery.headers))

    async def main() -> None:
        async with simulated_service(workers=[]) as service:
            await service.connect().subscribe("pmq.*.event.>", note)
            async with service.client().session("shared"), asyncio.TaskGroup() as group:
                reply, part = ask(text="a"), ask(text="b")
                later = ask(text=[part, "c"])
                await reply.mark(BATCH)
                await reply.mark(READER)
                await later.mark("throughput")
                waiting = group.create_task(part.get(timeout_s=60))
                await service.clock.sleep(1)
                await service.coordinators[0].kill()
                await service.start_coordinator()
                await service.clock.sleep(1)
                events.clear()
                await service.start_worker()
                await waiting
                assert _objectives(events, reply.id) == [READER], "the newest word counts"
                assert _objectives(events, part.id) == [Objective()], "somebody waits for it"

    run_simulation(main, seed=1)


class _Coordinator:
    """Answers to marks, and remembers them."""

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus
        self.heard: list[SessionMark] = []
        self.num_ignored = 0

    async def start(self) -> None:
        await self._bus.subscribe("pmq.*.control.*.mark", self._on_mark)

    async def take_over(self) -> None:
        self.heard.clear()
        await self._bus.publish(COORDINATOR_STARTED, encode(CoordinatorStarted(node="next")))
        await asyncio.sleep(1)

    async def _on_mark(self, delivery: Delivery) -> None:
        if self.num_ignored:
            self.num_ignored -= 1
            return
        self.heard.append(decode(delivery.payload, SessionMark, delivery.headers))
        if delivery.reply:
            await self._bus.publish(delivery.reply, encode_json(SessionReply()))

    @property
    def names(self) -> dict[str, Objective]:
        return {name: mark.objective for mark in self.heard for name in mark.variables}


def _with_coordinator(bus_type: type[MemoryBus] = MemoryBus) -> tuple[_Coordinator, Client]:
    server = MemoryServer()
    server.ensure_streams()
    return _Coordinator(MemoryBus(server)), Client(bus_type(server))


def test_only_marks_that_are_of_use_are_told_again_and_the_newest_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "MAX_KEPT", 3)

    async def main() -> None:
        coordinator, client = _with_coordinator()
        await coordinator.start()
        async with client.session("shared") as session:
            for name in "abcd":
                await session.mark(name, BATCH)
            await session.mark(["b", "e"], READER)
            await session.set("d", "done")
            assert await session.get("d") == "done"
            await coordinator.take_over()
            assert coordinator.names == {"b": READER, "e": READER}
        await coordinator.take_over()
        assert not coordinator.heard, "the session has ended"

    run_simulation(main)


class _TenantBus(MemoryBus):
    """Of a user who may not hear what is between coordinator and workers."""

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        if subject.startswith("pmq-sys."):
            raise PermissionDenied(operation="subscribe to", subject=subject)
        return await super().subscribe(subject, handler, queue=queue)


def test_who_may_not_hear_of_coordinators_can_mark_all_the_same() -> None:
    async def main() -> None:
        coordinator, client = _with_coordinator(_TenantBus)
        await coordinator.start()
        async with client.session("shared") as session:
            await session.mark("a", BATCH)
            assert coordinator.names == {"a": BATCH}
            await coordinator.take_over()
            assert not coordinator.heard

    run_simulation(main)


@pytest.mark.parametrize("num_ignored", [1, 2])
def test_a_request_that_its_coordinator_died_with_is_asked_again(num_ignored: int) -> None:
    async def main() -> None:
        coordinator, client = _with_coordinator()
        await coordinator.start()
        coordinator.num_ignored = num_ignored
        async with client.session("shared") as session:
            await session.mark("a", BATCH)
            assert len(coordinator.heard) == 1

    run_simulation(main)


def test_a_request_outlives_a_lost_connection() -> None:
    async def main() -> None:
        coordinator, client = _with_coordinator()
        await coordinator.start()
        coordinator.num_ignored = 1
        async with client.session("shared") as session, asyncio.TaskGroup() as group:
            marking = group.create_task(session.mark("a", BATCH))
            await asyncio.sleep(0.01)
            assert isinstance(client.bus, MemoryBus)
            client.bus.link.cut()
            await asyncio.sleep(3)
            client.bus.link.mend()
            await marking
            assert len(coordinator.heard) == 1

    run_simulation(main)


def test_a_request_that_nobody_answers_ends() -> None:
    async def main() -> float:
        coordinator, client = _with_coordinator()
        await coordinator.start()
        coordinator.num_ignored = 1_000
        loop = asyncio.get_running_loop()
        async with client.session("shared") as session:
            error = await raised_by(_mark(session))
        assert isinstance(error, RequestTimeout)
        return loop.time()

    assert run_simulation(main) == pytest.approx(control.TIMEOUT_S, abs=0.1)


async def _mark(session: Session) -> None:
    await session.mark("a", BATCH)
