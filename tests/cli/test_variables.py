"""`set`, `get` and `watch` against a real server, as processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from parrot_mq.bus import BusConfig, open_bus, set_variable
from parrot_mq.client import Client
from parrot_mq.errors import EngineFailure
from parrot_mq.messages import TaskEvent, TokenDelta, VariableAddress, encode_error, encode_json
from parrot_mq.types import SessionId, TenantId, VariableId, fresh_id

PARROT_MQ = (sys.executable, "-m", "parrot_mq")


@contextmanager
def _started(url: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PARROT_MQ_SERVERS": url}
    with subprocess.Popen(
        [*PARROT_MQ, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def _read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return (await asyncio.to_thread(process.stdout.readline)).rstrip("\n")


async def test_watch_shows_values_errors_events_and_tokens(nats_url: str) -> None:
    session = fresh_id("watched")
    with _started(nats_url, "watch", session, "--tokens") as watch:
        assert watch.stderr is not None
        assert f"watching pmq.default.set.{session}.>" in watch.stderr.readline()
        async with open_bus(BusConfig(servers=(nats_url,))) as bus:
            await set_variable(bus, _address(session, "topic"), "parrots")
            assert await _read_line(watch) == f"{session}  set    topic  'parrots'"

            payload, headers = encode_error(EngineFailure(cause="no luck"))
            await bus.publish_once(f"pmq.default.var.{session}.failed", payload, headers=headers)
            assert await _read_line(watch) == f"{session}  set    failed  engine_failure: the engine failed: no luck"

            delta = TokenDelta(attempt=1, offset=3, text="ot")
            await bus.publish(f"pmq.default.stream.{session}.word", encode_json(delta))
            assert await _read_line(watch) == f"{session}  stream word  +3 'ot'"

            event = TaskEvent(kind="finished", task="t", variable="word", num_prompt_tokens=9, num_output_tokens=2)
            await bus.publish(f"pmq.default.event.{session}.finished", encode_json(event))
            expected = f"{session}  event  finished  word  9 prompt tokens, 0 shared  2 generated"
            assert await _read_line(watch) == expected

            await bus.publish(f"pmq.default.event.{session}.odd", b"not a message")
            assert "malformed task.event message" in await _read_line(watch)
        watch.send_signal(signal.SIGINT)
        assert watch.wait(20) == 0


async def test_get_waits_for_a_value_that_comes_later(nats_url: str) -> None:
    session = fresh_id("late")
    with _started(nats_url, "get", session, "topic") as get:
        async with Client.connect(nats_url) as client, client.session(session) as opened:
            await opened.variable("topic").set("parrots")
        assert await _read_line(get) == "parrots"
        assert get.wait(20) == 0


async def test_get_prints_a_failure_as_one_line(nats_url: str) -> None:
    session = fresh_id("failed")
    async with open_bus(BusConfig(servers=(nats_url,))) as bus:
        payload, headers = encode_error(EngineFailure(cause="no luck"))
        await bus.publish_once(f"pmq.default.var.{session}.topic", payload, headers=headers)
    with _started(nats_url, "get", session, "topic") as get:
        assert get.wait(20) == 1
        assert get.stderr is not None
        assert get.stderr.read() == "error: the engine failed: no luck\n"


async def test_get_gives_up_after_its_timeout(nats_url: str) -> None:
    with _started(nats_url, "get", fresh_id("never"), "topic", "--timeout", "0") as get:
        assert get.wait(20) == 1
        assert get.stderr is not None
        assert "variable 'topic' was not done within" in get.stderr.read()


@pytest.mark.parametrize("text", ["parrots\nand crows\n", ""])
async def test_set_reads_standard_input(nats_url: str, text: str) -> None:
    session = fresh_id("input")
    command = [*PARROT_MQ, "set", session, "topic", "-", "--servers", nats_url]
    await asyncio.to_thread(subprocess.run, command, input=text, text=True, check=True, timeout=30)
    async with Client.connect(nats_url) as client, client.session(session) as opened:
        assert await opened.variable("topic") == text


def _address(session: str, variable: str) -> VariableAddress:
    return VariableAddress(TenantId("default"), SessionId(session), VariableId(variable))
