"""What only the bus in memory has: faults, outages, virtual time, one order per seed."""

from __future__ import annotations

import asyncio
import random

import pytest

from parrot_mq.bus import Delivery, MemoryBus, MemoryServer
from parrot_mq.bus.blobs import put_blob
from parrot_mq.errors import ConnectionLost, ConsumerTakenOver, NoResponders, PublishRejected, RequestTimeout
from parrot_mq.messages.subjects import STREAM_BLOBS, STREAM_TASKS, STREAM_VARS, task_subject, variable_subject
from tests.bus.worlds import WAIT_S, Mailbox


class StoppedClock:
    """A clock that a test sets."""

    def __init__(self, now: float) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, delay_s: float) -> None:
        self.time += delay_s
        await asyncio.sleep(0)


async def test_core_messages_can_be_dropped_doubled_and_delayed() -> None:
    delays = {b"dropped": [], b"doubled": [0.0, 0.0], b"late": [0.01], b"plain": [0.0]}
    server = MemoryServer(fault=lambda message: delays[message.payload])
    async with MemoryBus(server) as bus:
        mailbox = Mailbox()
        await bus.subscribe("x", mailbox)
        for payload in (b"dropped", b"late", b"doubled", b"plain"):
            await bus.publish("x", payload)
        await mailbox.wait_for(4)
        assert mailbox.payloads == [b"doubled", b"doubled", b"plain", b"late"]


async def test_a_late_message_for_a_closed_subscription_is_dropped() -> None:
    server = MemoryServer(fault=lambda message: [0.001])
    async with MemoryBus(server) as bus:
        closed, kept = Mailbox(), Mailbox()
        subscription = await bus.subscribe("x", closed)
        await bus.subscribe("x", kept)
        await bus.publish("x", b"")
        await subscription.aclose()
        await kept.wait_for(1)
        assert not closed.deliveries


async def test_stored_facts_suffer_no_faults() -> None:
    server = MemoryServer(fault=lambda message: [])
    server.ensure_streams()
    async with MemoryBus(server) as bus:
        mailbox = Mailbox()
        await bus.follow(STREAM_VARS, mailbox, after_sequence=0)
        await bus.publish_once(variable_subject("t", "s", "v"), b"x")
        await mailbox.wait_for(1)


async def test_an_outage_fails_requests_delays_facts_and_tells_listeners(memory_server: MemoryServer) -> None:
    async with MemoryBus(memory_server) as bus, MemoryBus(memory_server) as other:
        silent, heard, restored = Mailbox(), Mailbox(), asyncio.Event()
        bus.add_reconnect_listener(restored.set)
        await other.subscribe("silent", silent)
        await other.subscribe("x", heard)

        async def ask() -> None:
            with pytest.raises(ConnectionLost):
                await bus.request("silent", b"", timeout_s=600)

        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
            group.create_task(ask())
            await silent.wait_for(1)
            memory_server.go_down()
            await bus.publish("x", b"lost")
            storing = group.create_task(bus.publish_once(variable_subject("t", "s", "v"), b"x"))
            await asyncio.sleep(0)
            with pytest.raises(ConnectionLost):
                await bus.request("x", b"", timeout_s=600)
            assert not storing.done()
            memory_server.come_up()
            await restored.wait()
            assert (await storing).is_new
        await bus.publish("x", b"heard")
        await heard.wait_for(1)
        assert heard.payloads == [b"heard"]


async def test_facts_wait_for_the_streams_only_so_long() -> None:
    async with MemoryBus(MemoryServer(), publish_timeout_s=0.1) as bus:
        with pytest.raises(PublishRejected, match="no stream takes this subject"):
            await bus.publish_once(variable_subject("t", "s", "v"), b"x")
        with pytest.raises(PublishRejected, match="stream not found"):
            await bus.last_sequence(STREAM_VARS)
        bus.server.go_down()
        with pytest.raises(RequestTimeout):
            await bus.last_sequence(STREAM_VARS)


async def test_facts_are_stamped_by_the_clock_of_the_world() -> None:
    clock = StoppedClock(1000.0)
    server = MemoryServer(clock=clock)
    server.ensure_streams()
    async with MemoryBus(server) as bus:
        subject = variable_subject("t", "s", "v")
        await bus.publish_once(subject, b"x")
        assert (await bus.get(STREAM_VARS, [subject]))[subject].timestamp == 1000.0
        digest = await bus.put_blob("t", b"data")
        clock.time = 2e9
        assert await bus.put_blob("t", b"data") == digest


async def test_an_old_blob_is_written_anew(memory_bus: MemoryBus) -> None:
    """Its age counts from its first storing, and a value that refers to it now has a whole life before it."""
    data = bytes(300_000)
    digest = await put_blob(memory_bus, "t", data, now=0.0, max_age_s=10.0)
    stored = await memory_bus.last_sequence(STREAM_BLOBS)
    now = memory_bus.server.clock.now()
    assert await put_blob(memory_bus, "t", data, now=now + 9.0, max_age_s=10.0) == digest
    assert await memory_bus.last_sequence(STREAM_BLOBS) == stored
    assert await put_blob(memory_bus, "t", data, now=now + 11.0, max_age_s=10.0) == digest
    assert await memory_bus.last_sequence(STREAM_BLOBS) == 2 * stored
    assert await memory_bus.get_blob("t", digest) == data


async def test_an_acknowledgement_of_an_old_holder_removes_nothing(memory_server: MemoryServer) -> None:
    async with MemoryBus(memory_server) as bus:
        old, new = Mailbox(), Mailbox()
        holder = await bus.take(STREAM_TASKS, old, consumer="c")
        await bus.publish_once(task_subject("t", "s", "k"), b"")
        (stale,) = await old.wait_for(1)
        await bus.take(STREAM_TASKS, new, consumer="c")
        with pytest.raises(ConsumerTakenOver):
            await holder.wait_closed()
        await bus.acknowledge(stale)
        await new.wait_for(1)
        assert not await bus.is_empty(STREAM_TASKS, task_subject("t", "s", "k"))
        await holder.aclose()
        await bus.publish_once(task_subject("t", "s", "k2"), b"")
        await new.wait_for(2)


async def test_a_request_on_a_variable_is_acknowledged_as_by_a_server(memory_server: MemoryServer) -> None:
    """A client of another language stores a fact by a request and reads the acknowledgement."""
    async with MemoryBus(memory_server) as bus:
        subject = variable_subject("t", "s", "v")
        first = await bus.request(subject, b"1", timeout_s=WAIT_S)
        second = await bus.request(subject, b"2", timeout_s=WAIT_S)
        assert (b'"seq": 1' in first.payload, b"10077" in second.payload) == (True, True)
        with pytest.raises(NoResponders):
            await bus.request("elsewhere", b"", timeout_s=WAIT_S)


async def test_the_same_seed_gives_the_same_order() -> None:
    assert await _run(7) == await _run(7)
    assert await _run(7) != await _run(8)


async def _run(seed: int) -> list[tuple[int, bytes]]:
    rng = random.Random(seed)
    server = MemoryServer(seed=seed, fault=lambda message: [0.0] * rng.choice([0, 1, 2]))
    seen: list[tuple[int, bytes]] = []
    async with MemoryBus(server) as bus:
        last = Mailbox()
        for member in range(3):

            async def handler(delivery: Delivery, member: int = member) -> None:
                seen.append((member, delivery.payload))

            await bus.subscribe("work", handler, queue="workers")
        for number in range(50):
            await bus.publish("work", str(number).encode())
        server.fault = None
        await bus.subscribe("last", last)
        await bus.publish("last", b"")
        await last.wait_for(1)
    return seen
