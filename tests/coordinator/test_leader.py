"""A pair of coordinators: one leads, the other stands by and takes over when it has to. The same on both buses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from parrot_workers.testing import scripted_worker
from structlog.testing import capture_logs

from parrot_mq.bus import Bus, BusConfig, Delivery, MemoryBus, MemoryServer, open_bus
from parrot_mq.client import Client
from parrot_mq.coordinator import Candidate, LeaderConfig, open_candidate, open_coordinator
from parrot_mq.errors import ConfigurationError, ConnectionClosed, ConnectionLost, ConsumerTakenOver
from parrot_mq.messages import (
    ALL_TASKS,
    LEASE_SUBJECT,
    STREAM_LEASES,
    STREAM_TASKS,
    CoordinatorLease,
    decode,
    encode_json,
    variable_subject,
)
from parrot_mq.program import Input, Output, semantic_function
from parrot_mq.testing.nats_server import running_nats_server
from parrot_mq.types import fresh_id
from tests.coordinator.service import FAST, answer, eventually, expected, make_engine, raised_by

pytestmark = pytest.mark.slow

LEASE_S = 1.0

Connect = Callable[[], AbstractAsyncContextManager[Bus]]


@semantic_function
def step(text: Input, result: Output = Output(max_tokens=100)) -> None:
    """{{text}}.{{result}}"""


@dataclass
class _Process:
    """A candidate with its connections, as a process has them."""

    connect: Connect
    candidate: Candidate = field(init=False)
    buses: list[Bus] = field(default_factory=list)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _ready: asyncio.Event = field(default_factory=asyncio.Event)
    _is_killed: bool = False
    _task: asyncio.Task[None] = field(init=False)

    async def start(self, group: asyncio.TaskGroup, config: LeaderConfig) -> None:
        self._task = group.create_task(self._run(config))
        await self._ready.wait()

    async def _run(self, config: LeaderConfig) -> None:
        try:
            async with open_candidate(self.connection, FAST, config) as self.candidate:
                self._ready.set()
                await self._stop.wait()
        except ConnectionClosed:  # nobody sees how a process ends that is killed
            if not self._is_killed:
                raise

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Bus]:
        async with self.connect() as bus:
            self.buses.append(bus)
            yield bus

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.wait([self._task])

    async def kill(self) -> None:
        """Nothing that it does from now on is seen by anyone."""
        self._is_killed = True
        for bus in self.buses:
            bus.abort()
        self._task.cancel()
        await asyncio.wait([self._task])


@dataclass
class _World:
    """A server, an observer's connection, and processes."""

    connect: Connect
    bus: Bus
    group: asyncio.TaskGroup
    processes: list[_Process] = field(default_factory=list)

    async def candidate(self, lease_s: float = LEASE_S) -> _Process:
        process = _Process(self.connect)
        await process.start(self.group, LeaderConfig(lease_s=lease_s))
        self.processes.append(process)
        return process

    async def leader(self, lease_s: float = LEASE_S) -> _Process:
        process = await self.candidate(lease_s)
        await process.candidate.wait_leading()
        return process

    async def standby(self, leader: _Process, lease_s: float = LEASE_S) -> _Process:
        process = await self.candidate(lease_s)
        await eventually(lambda: process.candidate.leadership().holder == leader.candidate.name)
        return process

    async def record(self) -> CoordinatorLease:
        found = await self.bus.newest(STREAM_LEASES, LEASE_SUBJECT)
        assert found is not None
        return decode(found.payload, CoordinatorLease)


@pytest.fixture(scope="module")
def own_nats_url() -> Iterator[str]:
    """A server with no coordinator but ours."""
    with running_nats_server() as server:
        yield server.url


@pytest.fixture(params=["memory", "nats"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[_World]:
    """Nobody leads yet, or has led before; nothing is unfinished."""
    if request.param == "memory":
        server = MemoryServer()
        server.ensure_streams()

        def connect() -> AbstractAsyncContextManager[Bus]:
            return MemoryBus(server)
    else:
        config = BusConfig(servers=(request.getfixturevalue("own_nats_url"),), publish_timeout_s=5)

        def connect() -> AbstractAsyncContextManager[Bus]:
            return open_bus(config)

    async with asyncio.timeout(50), connect() as bus, asyncio.TaskGroup() as group:
        await bus.purge(STREAM_LEASES, ">")
        await bus.purge(STREAM_TASKS, ">")
        running = _World(connect, bus, group)
        try:
            yield running
        finally:
            for process in reversed(running.processes):
                await process.stop()


@asynccontextmanager
async def _serving(world: _World) -> AsyncIterator[Client]:
    """A worker that answers at once, and a client of a tenant of its own."""
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(world.connect())
        engine = scripted_worker(bus, answer, engine=lambda: make_engine(answer), heartbeat_s=0.1)
        await stack.enter_async_context(engine)
        yield Client(await stack.enter_async_context(world.connect()), tenant=fresh_id("tenant"))


# -- taking turns ----------------------------------------------------------------------------------------------------


async def test_the_first_leads_and_the_second_stands_by(world: _World) -> None:
    first = await world.leader()
    second = await world.standby(first)
    assert first.candidate.leadership().leads
    assert not second.candidate.leadership().leads
    assert second.candidate.statistics().num_unfinished == 0
    assert second.candidate.actors().actors == ()
    record = await world.record()
    assert (record.holder, record.term, record.lease_s) == (first.candidate.name, 1, LEASE_S)


async def test_who_stops_hands_over_at_once(world: _World) -> None:
    first = await world.leader(lease_s=60)
    second = await world.standby(first, lease_s=60)
    with capture_logs() as logs:
        async with asyncio.timeout(5):
            await first.stop()
            await second.candidate.wait_leading()
    told = {entry["event"]: entry for entry in logs if "leadership" in entry["event"]}
    assert told["leadership_released"]["process"] == first.candidate.name
    assert told["leadership_taken"]["process"] == second.candidate.name
    assert told["leadership_taken"]["reason"] == "the one before has released it"
    assert (await world.record()).term == 2


async def test_who_is_killed_is_followed_when_its_lease_has_ended(world: _World) -> None:
    loop = asyncio.get_running_loop()
    first = await world.leader()
    second = await world.standby(first)
    killed_at = loop.time()
    with capture_logs() as logs:
        await first.kill()
        await second.candidate.wait_leading()
    assert loop.time() - killed_at > LEASE_S / 2, "its lease may have been renewed a moment before"
    reasons = [entry["reason"] for entry in logs if entry["event"] == "leadership_taken"]
    assert reasons == [f"{first.candidate.name} was not heard of for 1 s"]


async def test_the_lead_stays_where_it_is(world: _World) -> None:
    first = await world.leader(lease_s=2)
    second = await world.standby(first, lease_s=2)
    mailbox: list[Delivery] = []

    async def count(delivery: Delivery) -> None:
        mailbox.append(delivery)

    await world.bus.subscribe(LEASE_SUBJECT, count)
    await eventually(lambda: len(mailbox) > 6)
    holders = {decode(delivery.payload, CoordinatorLease).holder for delivery in mailbox}
    assert holders == {first.candidate.name}
    assert second.candidate.leadership().num_terms == 0


async def test_of_many_that_start_at_once_one_leads(world: _World) -> None:
    processes = [_Process(world.connect) for _ in range(5)]
    world.processes += processes
    async with asyncio.TaskGroup() as group:
        for process in processes:
            group.create_task(process.start(world.group, LeaderConfig(lease_s=60)))
    await eventually(lambda: any(process.candidate.leads for process in processes))
    await eventually(lambda: all(process.candidate.leadership().holder for process in processes))
    assert sum(process.candidate.leads for process in processes) == 1
    assert len({process.candidate.leadership().holder for process in processes}) == 1


# -- losing ----------------------------------------------------------------------------------------------------------


async def test_who_finds_another_name_in_the_record_stops_to_act_and_stands_by(world: _World) -> None:
    first = await world.leader()
    actors_bus = first.buses[1]
    with capture_logs() as logs:
        record = CoordinatorLease(holder="another", lease_s=1.0, term=7, since=0)
        while (await world.record()).holder != "another":
            await world.bus.publish(LEASE_SUBJECT, encode_json(record))
        await eventually(lambda: not first.candidate.leads)
        assert isinstance(await raised_by(actors_bus.publish("pmq-sys.x", b"")), ConnectionClosed)
        await eventually(lambda: first.candidate.leads)
    told = [(entry["event"], entry["reason"]) for entry in logs if "leadership" in entry["event"]]
    assert told == [
        ("leadership_lost", "another has taken the lease"),
        ("leadership_taken", "another was not heard of for 1 s"),
    ]
    assert (await world.record()).term == 8


async def test_who_cannot_renew_stops_to_act_before_another_may_begin(world: _World) -> None:
    first = await world.leader()
    lease_bus, actors_bus = first.buses
    loop = asyncio.get_running_loop()

    async def never(*_: object, **__: object) -> int:
        await asyncio.Event().wait()
        raise AssertionError

    cut_at = loop.time()
    lease_bus.replace = never  # type: ignore[method-assign]
    with capture_logs() as logs:
        while not isinstance(await _outcome(actors_bus), ConnectionClosed):
            pass
        assert loop.time() - cut_at < LEASE_S
    assert [entry["reason"] for entry in logs if entry["event"] == "leadership_lost"] in (
        [],
        ["the lease could not be renewed within 1 s"],
    )
    await first.kill()


async def _outcome(bus: Bus) -> Exception | None:
    try:
        await bus.publish("pmq-sys.nobody", b"")
    except ConnectionClosed as error:
        return error
    await asyncio.sleep(0.005)
    return None


async def test_a_lease_that_was_written_though_the_answer_was_lost_is_kept(world: _World) -> None:
    first = await world.leader()
    lease_bus = first.buses[0]
    replace, num_lost = lease_bus.replace, 0

    async def lossy(*args: object, **kwargs: object) -> int:
        nonlocal num_lost
        sequence = await replace(*args, **kwargs)  # type: ignore[arg-type]
        if num_lost < 3:
            num_lost += 1
            raise ConnectionLost(subject=LEASE_SUBJECT)
        return sequence

    lease_bus.replace = lossy  # type: ignore[method-assign]
    await eventually(lambda: num_lost == 3)
    before = first.candidate.leadership()
    record = await world.bus.newest(STREAM_LEASES, LEASE_SUBJECT)
    assert record is not None
    await eventually(lambda: _is_newer(world, record.sequence + 2))
    assert before.leads
    assert first.candidate.leadership() == before


async def _is_newer(world: _World, sequence: int) -> bool:
    found = await world.bus.newest(STREAM_LEASES, LEASE_SUBJECT)
    return found is not None and found.sequence > sequence


async def test_who_has_the_lease_takes_the_tasks_back_from_who_has_not(world: _World) -> None:
    first = await world.leader()
    async with world.connect() as bus, open_coordinator(bus, FAST) as other:
        assert isinstance(await raised_by(other.wait_closed()), ConsumerTakenOver)
    await eventually(lambda: first.candidate.leads and first.candidate.leadership().num_terms == 2)


async def test_a_record_that_cannot_be_read_is_replaced_after_a_lease(world: _World) -> None:
    await world.bus.replace(LEASE_SUBJECT, b"garbage", expected_sequence=0, timeout_s=5)
    first = await world.leader(lease_s=0.3)
    assert (await world.record()).holder == first.candidate.name


async def test_a_closed_connection_ends_it(world: _World) -> None:
    process = _Process(world.connect)

    async def run() -> None:
        async with open_candidate(process.connection, FAST, LeaderConfig(lease_s=LEASE_S)) as candidate:
            await candidate.wait_leading()
            await process.buses[0].aclose()
            await asyncio.Event().wait()

    assert isinstance(await raised_by(run()), ConnectionClosed)


def test_a_lease_has_a_length_that_makes_sense() -> None:
    with pytest.raises(ConfigurationError, match=r"0\.1 to 3600"):
        LeaderConfig(lease_s=0)


# -- work ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
async def test_work_goes_on_after_each_change_and_every_task_is_done_once(world: _World, is_killed: bool) -> None:
    leader = await world.leader()
    async with _serving(world) as client, client.session() as session:
        num_stored: dict[str, int] = {}

        async def count(delivery: Delivery) -> None:
            num_stored[delivery.subject] = num_stored.get(delivery.subject, 0) + 1

        await client.bus.subscribe(f"pmq.{client.tenant}.set.{session.name}.*", count)
        variables, texts = [], []
        for _ in range(3):
            other = await world.standby(leader)
            variable, text = step(text="go"), expected("go.")
            for _ in range(30):
                variable, text = step(text=variable), expected(f"{text}.")
            variables.append(variable)
            texts.append(text)
            await session.flush()
            await (leader.kill() if is_killed else leader.stop())
            await other.candidate.wait_leading()
            leader = other
        for variable, text in zip(variables, texts, strict=True):
            assert await variable == text
        await eventually(lambda: client.bus.is_empty(STREAM_TASKS, ALL_TASKS))
        assert len(num_stored) == 93
        assert set(num_stored.values()) == {1}


async def test_a_cancel_right_after_a_take_over_misses_no_task(world: _World) -> None:
    leader = await world.leader(lease_s=60)
    async with _serving(world) as client, client.session() as session:
        for _ in range(300):
            step(text=session.variable("never"))
        await session.flush()
        standby = await world.standby(leader, lease_s=60)
        await leader.stop()
        await standby.candidate.wait_leading()
        assert await session.cancel() == 300
        await eventually(lambda: client.bus.is_empty(STREAM_TASKS, ALL_TASKS))


async def test_what_was_set_while_nobody_led_is_noticed(world: _World) -> None:
    leader = await world.leader(lease_s=60)
    async with _serving(world) as client, client.session() as session:
        waiting = step(text=session.variable("x"))
        await session.flush()
        await eventually(lambda: leader.candidate.statistics().num_unfinished == 1)
        await leader.stop()
        await client.bus.publish_once(variable_subject(client.tenant, session.name, "x"), b"1")
        await world.leader(lease_s=60)
        assert await waiting == expected("1.")
