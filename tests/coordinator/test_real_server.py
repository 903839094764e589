"""The same promises over a real nats-server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from parrot_workers.engine import ScriptedEngine
from parrot_workers.testing import scripted_worker

from parrot_mq.bus import Bus, BusConfig, Delivery, NatsServer, connect
from parrot_mq.client import Client, Session
from parrot_mq.coordinator import CoordinatorConfig, open_coordinator
from parrot_mq.errors import ConsumerTakenOver, EngineFailure, InputFailed, MalformedMessage, TaskCancelled
from parrot_mq.messages import STREAM_TASKS, STREAM_VARS, encode, encode_json, task_subject
from parrot_mq.program import Input, Output, SemanticVariable, semantic_function
from parrot_mq.testing.nats_server import running_nats_server
from parrot_mq.types import fresh_id
from tests.coordinator.programs import ref, task
from tests.coordinator.service import Process, answer, eventually, expected, make_engine, raised_by

CONFIG = CoordinatorConfig(lease_s=1.0, settle_s=0.02, model_grace_s=60.0)


@semantic_function
def step(text: Input, result: Output = Output(max_tokens=100)) -> None:
    """{{text}}.{{result}}"""


@pytest.fixture(scope="module")
def own_nats_url() -> Iterator[str]:
    """A server with no coordinator but ours."""
    with running_nats_server() as server:
        yield server.url


class _Service:
    """Coordinators and workers, each on a connection of its own."""

    def __init__(self, url: str, group: asyncio.TaskGroup) -> None:
        self.config = BusConfig(servers=(url,), publish_timeout_s=20, reconnect_wait_s=0.05)
        self.group = group
        self.processes: list[Process] = []

    async def add_coordinator(self) -> Process:
        return await self._start(Process(await connect(self.config), lambda bus: open_coordinator(bus, CONFIG)))

    async def add_worker(self, name: str, step_s: float = 0.0) -> Process:
        def make() -> ScriptedEngine:
            return make_engine(answer, tokens_per_step=4, step_s=step_s, num_slots=8)

        return await self._start(
            Process(
                await connect(self.config),
                lambda bus: scripted_worker(bus, answer, name=name, engine=make, heartbeat_s=0.1),
            )
        )

    async def _start(self, process: Process) -> Process:
        await process.start(self.group)
        self.processes.append(process)
        return process

    async def stop(self) -> None:
        for process in reversed(self.processes):
            await process.stop()


@asynccontextmanager
async def _running(url: str) -> AsyncIterator[tuple[_Service, Client]]:
    """A coordinator, two workers, and a client of a tenant of its own."""
    async with asyncio.timeout(50), asyncio.TaskGroup() as group:
        service = _Service(url, group)
        try:
            await service.add_coordinator()
            for name in (fresh_id("worker"), fresh_id("worker")):
                await service.add_worker(name)
            async with Client.connect(config=service.config, tenant=fresh_id("tenant")) as client:
                yield service, client
        finally:
            await service.stop()


async def _is_all_done(client: Client) -> bool:
    return await client.bus.is_empty(STREAM_TASKS, f"pmq.{client.tenant}.task.>")


async def _chain(length: int) -> tuple[SemanticVariable, str]:
    """Submit a chain; returns its end, and the text that it will have."""
    variable, text = step(text="go"), expected("go.")
    for _ in range(length - 1):
        variable, text = step(text=variable), expected(f"{text}.")
    return variable, text


async def test_a_chain_and_a_fan(own_nats_url: str) -> None:
    async with _running(own_nats_url) as (_, client), client.session():
        end, text = await _chain(100)
        fan = [step(text=end) for _ in range(100)]
        both = step(text=fan)
        joined = "\n".join([expected(f"{text}.")] * 100)
        assert await both == expected(f"{joined}.")
        assert await end == text
        await eventually(lambda: _is_all_done(client))


@pytest.mark.parametrize("size", [0, 300 * 1024, 3_000_000])
async def test_texts_of_every_size(own_nats_url: str, size: int) -> None:
    text = "x" * size
    async with _running(own_nats_url) as (_, client), client.session() as session:
        variable = session.variable("big")
        result = step(text=variable)
        await variable.set(text)
        assert await result == expected(f"{text}.")
        assert await variable == text
        assert await step(text=text) == expected(f"{text}.")


async def test_any_client_may_publish_tasks_and_variables(own_nats_url: str) -> None:
    async with _running(own_nats_url) as (_, client), client.session("demo") as session:
        bus, tenant = client.bus, client.tenant
        record = task("Hi {{w}}:{{out}}", reads={"w": ref("who")})
        await bus.publish(f"pmq.{tenant}.task.demo.t1", encode_json(record))
        await bus.publish(f"pmq.{tenant}.var.demo.who", b"you")
        assert await session.get("out", 20) == expected("Hi you:")
        await bus.publish(f"pmq.{tenant}.var.demo.bad", b"\xff")
        assert isinstance(await raised_by(session.get("bad", 20)), MalformedMessage)
        for subject in ("var.demo.a.b", "task.demo.a.b", "task.d!.x"):
            await bus.publish(f"pmq.{tenant}.{subject}", b"{}")
        await bus.publish(f"pmq.{tenant}.task.demo.bad", b'{"outputs": {"o": {"variable": "lost"}}}')
        assert isinstance(await raised_by(session.get("lost", 20)), MalformedMessage)
        assert await step(text="fine") == expected("fine.")
        await eventually(lambda: _is_all_done(client))


async def test_errors_cancelling_and_closing(own_nats_url: str) -> None:
    async with _running(own_nats_url) as (_, client), client.session("demo") as session:
        bad = step(text="FAIL")
        after = step(text=bad)
        assert isinstance(await raised_by(bad.get()), EngineFailure)
        assert isinstance(await raised_by(after.get()), InputFailed)
        for _ in range(20):
            waiting = step(text=session.variable("never"))
            assert await session.cancel(waiting.id) == 1, "a cancel does not overtake its task"
            assert isinstance(await raised_by(waiting.get()), TaskCancelled)
        step(text=session.variable("never"))
        assert await session.close() == 1
        await eventually(lambda: _is_all_done(client))
        assert await client.bus.is_empty(STREAM_VARS, f"pmq.{client.tenant}.var.demo.>")


async def test_pieces_that_are_streamed_joined_are_the_value(own_nats_url: str) -> None:
    async with _running(own_nats_url) as (_, client), client.session():
        for number in range(20):
            variable = step(text=str(number))
            assert "".join([piece async for piece in variable.stream()]) == expected(f"{number}.")


async def test_coordinators_and_workers_are_killed_and_every_task_is_done_once(own_nats_url: str) -> None:
    async with _running(own_nats_url) as (service, client), client.session() as session:
        num_stored = Counter[str]()

        async def count(delivery: Delivery) -> None:
            num_stored[delivery.subject] += 1

        await client.bus.subscribe(f"pmq.{client.tenant}.set.{session.name}.*", count)
        ends = []
        for number in range(4):
            ends.append(await _chain(40))
            await session.flush()
            oldest = service.processes[:2]
            await service.add_coordinator()
            await service.add_worker(fresh_id("worker"), step_s=0.001)
            for process in oldest:
                await (process.kill() if number % 2 else process.stop())
                service.processes.remove(process)
        for end, text in ends:
            assert await end == text
        await eventually(lambda: _is_all_done(client))
        await eventually(lambda: len(num_stored) == 160)
        assert set(num_stored.values()) == {1}


async def test_a_coordinator_that_was_taken_over_is_told(own_nats_url: str) -> None:
    async with _running(own_nats_url) as (service, client), client.session():
        old = service.processes[0]
        await service.add_coordinator()
        assert isinstance(await raised_by(old.result.wait_closed()), ConsumerTakenOver)
        await old.stop()
        assert await step(text="fine") == expected("fine.")


async def test_the_server_is_restarted_with_its_storage_and_nothing_is_lost() -> None:
    async with NatsServer() as server, _running(server.url) as (_, client), client.session("demo") as session:
        await client.bus.ensure_streams()
        end, text = await _chain(60)
        await session.flush()
        await server.restart()
        assert await end.get(30) == text
        late = await _submit_raw(client.bus, client.tenant, session)
        assert await session.get(late, 30) == expected("late")
        await eventually(lambda: _is_all_done(client))


async def _submit_raw(bus: Bus, tenant: str, session: Session) -> str:
    """Publish a task by hand; returns the variable that it writes."""
    record = task("{{x}}{{out}}", reads={"x": ref("late")}, writes="out-late")
    await bus.publish_once(task_subject(tenant, session.name, "late"), encode(record))
    await session.set("late", "late")
    return "out-late"
