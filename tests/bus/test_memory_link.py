"""The way to the server in memory: late, in order, cut and mended."""

from __future__ import annotations

import asyncio
import random

import pytest

from parrot_mq.bus import Delivery, Link, MemoryBus, MemoryServer
from parrot_mq.errors import ConnectionClosed, ConnectionLost, RequestTimeout
from parrot_mq.messages.subjects import STREAM_TASKS, STREAM_VARS, task_subject, variable_subject
from parrot_mq.testing import run_simulation
from tests.bus.worlds import Mailbox

SUBJECT = variable_subject("t", "s", "v")


def _make_server() -> MemoryServer:
    server = MemoryServer()
    server.ensure_streams()
    return server


def test_each_way_takes_its_time() -> None:
    async def main() -> None:
        server, loop = _make_server(), asyncio.get_running_loop()
        async with MemoryBus(server, link=Link(0.1)) as far, MemoryBus(server) as near:

            async def answer(delivery: Delivery) -> None:
                await near.publish(delivery.reply, b"yes")

            await near.subscribe("question", answer)
            arrivals: list[float] = []

            async def note(delivery: Delivery) -> None:
                arrivals.append(loop.time())

            await far.subscribe("news", note)
            began_at = loop.time()
            await far.request("question", b"", timeout_s=1)
            assert loop.time() - began_at == pytest.approx(0.2)
            began_at = loop.time()
            await far.publish_once(SUBJECT, b"text")
            assert loop.time() - began_at == pytest.approx(0.2)
            assert server.streams[STREAM_VARS].last_sequence == 1
            began_at = loop.time()
            await near.publish("news", b"")
            await far.publish("news", b"")
            assert loop.time() == began_at
            await asyncio.sleep(1)
            assert [arrival - began_at for arrival in arrivals] == pytest.approx([0.1, 0.2])

    run_simulation(main)


def test_nothing_overtakes() -> None:
    async def main() -> None:
        server, rng = _make_server(), random.Random(1)
        async with MemoryBus(server, link=Link(rng.random)) as bus:
            mailbox = Mailbox()
            await bus.subscribe("x", mailbox)
            for number in range(50):
                await bus.publish("x", str(number).encode())
            await mailbox.wait_for(50)
            assert mailbox.payloads == [str(number).encode() for number in range(50)]

    run_simulation(main)


def test_a_cut_loses_core_messages_and_only_delays_facts() -> None:
    async def main() -> None:
        server, link = _make_server(), Link(0.1)
        async with MemoryBus(server, link=link) as bus, MemoryBus(server) as other:
            core, facts, reconnects = Mailbox(), Mailbox(), []
            await bus.subscribe("x", core)
            await bus.follow(STREAM_VARS, facts, after_sequence=0)
            bus.add_reconnect_listener(lambda: reconnects.append(True))
            await other.publish("x", b"lost")
            await other.publish_once(SUBJECT, b"kept")
            await asyncio.sleep(0.05)
            link.cut()
            await other.publish("x", b"lost, too")
            await other.publish_once(variable_subject("t", "s", "w"), b"later")
            with pytest.raises(ConnectionLost):
                await bus.request("y", b"", timeout_s=1)
            await asyncio.sleep(1)
            assert not facts.deliveries
            link.mend()
            await facts.wait_for(2)
            assert facts.payloads == [b"kept", b"later"]
            assert not core.deliveries
            assert reconnects == [True]

    run_simulation(main)


@pytest.mark.parametrize("is_cut_before", [False, True])
def test_a_task_that_is_settled_leaves_the_queue_though_the_connection_is_lost(is_cut_before: bool) -> None:
    async def main() -> None:
        server, link, tasks = _make_server(), Link(0.1), Mailbox()
        async with MemoryBus(server, link=link) as bus, MemoryBus(server) as other:
            await bus.take(STREAM_TASKS, tasks, consumer="queue")
            await other.publish_once(task_subject("t", "s", "k"), b"")
            (task,) = await tasks.wait_for(1)
            if is_cut_before:
                link.cut()
            await bus.acknowledge(task)
            await asyncio.sleep(0.05)
            link.cut()
            await asyncio.sleep(1)
            assert not await other.is_empty(STREAM_TASKS, task.subject)
            link.mend()
            await asyncio.sleep(1)
            assert await other.is_empty(STREAM_TASKS, task.subject)

    run_simulation(main)


def test_a_fact_is_stored_once_though_its_acknowledgement_is_lost() -> None:
    async def main() -> None:
        server, link = _make_server(), Link(0.1)
        async with MemoryBus(server, link=link) as bus, asyncio.TaskGroup() as group:
            storing = group.create_task(bus.publish_once(SUBJECT, b"text"))
            await asyncio.sleep(0.15)
            link.cut()
            await asyncio.sleep(1)
            assert not storing.done()
            link.mend()
            assert (await storing).sequence == 1

    run_simulation(main)


def test_a_link_that_stays_cut_ends_with_an_error() -> None:
    async def main() -> None:
        link = Link(0.1)
        async with MemoryBus(_make_server(), link=link, publish_timeout_s=3) as bus:
            link.cut()
            with pytest.raises(RequestTimeout):
                await bus.publish_once(SUBJECT, b"text")

    run_simulation(main)


def test_who_travels_when_the_bus_is_closed_learns_it() -> None:
    async def main() -> None:
        async with MemoryBus(_make_server(), link=Link(0.1)) as bus:
            asyncio.get_running_loop().call_later(0.05, bus.abort)
            with pytest.raises(ConnectionClosed):
                await bus.publish_once(SUBJECT, b"text")

    run_simulation(main)
