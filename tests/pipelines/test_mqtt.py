"""Events of an MQTT client, over the server's gateway."""

from __future__ import annotations

import asyncio
import json
import socket

from parrot_mq.bus import Delivery
from parrot_mq.pipelines import Result, Source
from tests.coordinator.service import expected
from tests.pipelines.programs import make_pipeline
from tests.pipelines.service import pipeline_service


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _text(text: str) -> bytes:
    return len(text.encode()).to_bytes(2, "big") + text.encode()


def _packet(kind: int, body: bytes) -> bytes:
    """A packet of MQTT 3.1.1 with less than 128 bytes."""
    assert len(body) < 128
    return bytes([kind, len(body)]) + body


async def _connect(port: int) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_packet(0x10, _text("MQTT") + b"\x04\x02" + (60).to_bytes(2, "big") + _text("sensor")))
    assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
    return writer


async def test_what_an_mqtt_client_publishes_is_worked_on() -> None:
    port = _free_port()
    config = ("server_name: pipelines", f'mqtt {{ listen: "127.0.0.1:{port}" }}')
    pipeline = make_pipeline(
        source=Source(mqtt="sites/+/alarms", id="/id"), result=Result(subject="heard", stored=False, format="json")
    )
    async with pipeline_service(*config) as service:
        results: asyncio.Queue[Delivery] = asyncio.Queue()
        await service.bus.subscribe("heard", results.put)
        writer = await _connect(port)
        event = json.dumps({"id": "1", "text": "hello"}).encode()
        async with service.running(pipeline):
            while results.empty():  # until the subscription is there; the event is the same each time
                writer.write(_packet(0x30, _text("sites/oslo/alarms") + event))
                await asyncio.sleep(0.05)
            found = json.loads((await results.get()).payload)
        writer.close()
        await writer.wait_closed()
    assert found["two"] == expected(expected("hello.") + "!")
