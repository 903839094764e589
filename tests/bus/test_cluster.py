"""A cluster of three that loses a leader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from parrot_mq.bus import BusConfig, NatsServer, open_bus
from parrot_mq.messages.subjects import STREAM_TASKS, STREAM_VARS, session_subjects, task_subject, variable_subject
from tests.bus.clusters import running_cluster
from tests.bus.worlds import Mailbox, eventually

NUM_FACTS = 2000


@pytest.fixture
async def cluster() -> AsyncIterator[list[NatsServer]]:
    """Three servers that know each other."""
    async with running_cluster() as servers:
        yield servers


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_nothing_is_lost_when_the_leader_is_killed(cluster: list[NatsServer]) -> None:
    """An election takes seconds; publishing, following and taking wait for it and go on."""
    config = BusConfig(
        servers=tuple(server.url for server in cluster), replicas=3, publish_timeout_s=60, reconnect_wait_s=0.1
    )
    async with open_bus(config) as bus, open_bus(config) as reader, asyncio.timeout(150):
        await bus.ensure_streams()
        mailbox, tasks, acknowledged = Mailbox(), Mailbox(), {}
        await reader.follow(STREAM_VARS, mailbox, after_sequence=0)
        await reader.take(STREAM_TASKS, tasks, consumer="c")
        numbers, half_way = iter(range(NUM_FACTS)), asyncio.Event()

        async def publish() -> None:
            for number in numbers:
                subject = variable_subject("t", "s", f"v{number}")
                acknowledged[subject] = (await bus.publish_once(subject, b"x")).sequence
                await bus.publish_once(task_subject("t", "s", f"k{number}"), b"x")
                if number == NUM_FACTS // 2:
                    half_way.set()

        async with asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(publish())
            await half_way.wait()
            info = await bus._jetstream.call(f"STREAM.INFO.{STREAM_VARS}", dict)
            await cluster[int(info["cluster"]["leader"][1])].kill()

        await mailbox.wait_for(NUM_FACTS, timeout_s=60)
        await tasks.wait_for(NUM_FACTS, timeout_s=60)
        assert {delivery.subject: delivery.sequence for delivery in mailbox.deliveries} == acknowledged
        assert [delivery.sequence for delivery in mailbox.deliveries] == sorted(acknowledged.values())
        for delivery in tasks.deliveries:
            await reader.acknowledge(delivery)
        await eventually(lambda: bus.is_empty(STREAM_TASKS, session_subjects("t", "s", "task")))
