"""A durable consumer of anyone's stream, on a real server; and storing by id."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from parrot_mq.bus import Bus, BusConfig, Delivery, DurableConsumer, NatsServer, Settlement, open_bus, store_identified
from parrot_mq.errors import StreamMismatch
from parrot_mq.tasks import task_group
from tests.coordinator.service import eventually


async def _add_stream(bus: Bus, name: str = "S") -> None:
    body = json.dumps({"name": name, "subjects": [f"{name}.>"], "storage": "file"}).encode()
    reply = await bus.request(f"$JS.API.STREAM.CREATE.{name}", body, timeout_s=5)
    assert b'"error"' not in reply.payload


async def _delete_consumer(bus: Bus) -> None:
    await bus.request("$JS.API.CONSUMER.DELETE.S.c", b"", timeout_s=5)


@pytest.mark.parametrize("accident", ["the server is restarted", "the server is killed", "the consumer is deleted"])
async def test_it_goes_on_after(accident: str) -> None:
    """Nothing is lost; what was settled comes again at most once."""
    handled = Counter[str]()

    async def handle(delivery: Delivery) -> Settlement:
        handled[delivery.payload.decode()] += 1
        return Settlement.DONE

    async with NatsServer() as server, open_bus(BusConfig(servers=(server.url,), reconnect_wait_s=0.05)) as bus:
        await _add_stream(bus)
        stop = asyncio.Event()
        async with task_group() as group:
            group.create_task(DurableConsumer(stream="S", name="c", ack_wait_s=1.0).run(bus, handle, stop))
            for number in range(50):
                await store_identified(bus, "S.x", f"{number}".encode(), message_id=f"{number}")
            await eventually(lambda: len(handled) == 50)
            if accident == "the server is restarted":
                await server.restart()
            elif accident == "the server is killed":
                await server.kill()
                await server.restart()
            else:
                await _delete_consumer(bus)
            for number in range(40, 100):
                await store_identified(bus, "S.x", f"{number}".encode(), message_id=f"{number}")
            await eventually(lambda: len(handled) == 100)
            stop.set()
    assert set(handled.values()) <= {1, 2}


async def test_what_is_settled_as_again_comes_again() -> None:
    attempts: list[int] = []

    async def handle(delivery: Delivery) -> Settlement:
        attempts.append(delivery.num_delivered)
        return Settlement.AGAIN if len(attempts) < 2 else Settlement.DONE

    async with NatsServer() as server, open_bus(BusConfig(servers=(server.url,))) as bus:
        await _add_stream(bus)
        await store_identified(bus, "S.x", b"x", message_id="x")
        stop = asyncio.Event()
        async with task_group() as group:
            group.create_task(DurableConsumer(stream="S", name="c").run(bus, handle, stop))
            await eventually(lambda: attempts == [1, 2])
            stop.set()


async def test_an_id_is_stored_once() -> None:
    async with NatsServer() as server, open_bus(BusConfig(servers=(server.url,))) as bus:
        await _add_stream(bus)
        first = await store_identified(bus, "S.x", b"x", message_id="a")
        again = await store_identified(bus, "S.x", b"x", message_id="a")
        other = await store_identified(bus, "S.x", b"x", message_id="b")
    assert (first.is_new, again.is_new, other.is_new) == (True, False, True)
    assert (first.sequence, again.sequence, other.sequence) == (1, 1, 2)


async def test_a_consumer_with_other_settings_is_told() -> None:
    async with NatsServer() as server, open_bus(BusConfig(servers=(server.url,))) as bus:
        await _add_stream(bus)
        config = {"durable_name": "c", "ack_policy": "none", "deliver_policy": "new"}
        body = json.dumps({"stream_name": "S", "config": config}).encode()
        await bus.request("$JS.API.CONSUMER.DURABLE.CREATE.S.c", body, timeout_s=5)
        with pytest.raises(StreamMismatch, match="consumer 'c'"):
            await DurableConsumer(stream="S", name="c").create(bus)
