"""Native functions over a real nats-server: hosts that know only the wire, one of which is killed."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import pytest

from parrot_mq.bus import BusConfig, NatsServer, open_bus
from parrot_mq.client import Client, Session
from parrot_mq.client.control import SessionControl
from parrot_mq.coordinator import CoordinatorConfig, open_coordinator
from parrot_mq.errors import FunctionNotServed
from parrot_mq.messages import NativeTask, encode_json, task_subject
from parrot_mq.types import fresh_id
from tests.coordinator.plain_host import BEAT_S
from tests.coordinator.programs import native, ref
from tests.coordinator.service import raised_by

PLAIN_HOST = Path(__file__).with_name("plain_host.py")
WAIT_S = 20.0


class _HostProcess:
    """A process of `plain_host.py`, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, url: str, tenant: str, name: str) -> Self:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(PLAIN_HOST), url, tenant, name, stdout=asyncio.subprocess.PIPE
        )
        host = cls(process)
        await host.says("ready")
        return host

    async def says(self, words: str) -> None:
        """Wait for a line."""
        assert self._process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            while (line := await self._process.stdout.readline()).decode().strip() != words:
                assert line, f"it ended before it said {words!r}"

    async def kill(self) -> None:
        """End it at once."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def _running(grace_s: float = 0.3) -> AsyncIterator[tuple[NatsServer, Client, Session]]:
    """A server, a coordinator and a session."""
    async with asyncio.timeout(55), NatsServer() as server:
        config, tenant = BusConfig(servers=(server.url,), reconnect_wait_s=0.05), fresh_id("tenant")
        async with (
            open_bus(config) as bus,
            open_coordinator(bus, CoordinatorConfig(function_grace_s=grace_s)),
            Client.connect(config=config, tenant=tenant) as client,
            client.session("s") as session,
        ):
            yield server, client, session


async def _submit(client: Client, record: NativeTask) -> None:
    await client.bus.publish(task_subject(client.tenant, "s", fresh_id("task")), encode_json(record))


async def test_a_host_that_knows_only_the_wire_is_called_and_when_it_is_killed_another_one_is() -> None:
    async with _running() as (server, client, session):
        first = await _HostProcess.start(server.url, client.tenant, "first")
        second: _HostProcess | None = None
        try:
            await _submit(client, native("echo", reads={"text": ref("x")}, writes="a"))
            await session.set("x", "hello")
            assert await session.get("a", WAIT_S) == "first: hello"

            await _submit(client, native("hold", writes="b"))
            await first.says("called hold 1")
            second = await _HostProcess.start(server.url, client.tenant, "second")
            await first.kill()
            killed_at = time.monotonic()
            await second.says("called hold 2")
            assert time.monotonic() - killed_at < 3 * BEAT_S + 5, "three beats, a moment, and a busy machine"

            await session.cancel("b")
            await second.says("stopped")
            story = await SessionControl(client.bus, client.tenant, "s").explain()
            (held,) = [each for each in story.stories if each.variable == "b"]
            assert [each.worker for each in held.lost] == ["first"]
        finally:
            for host in (first, second):
                if host is not None:
                    await host.kill()


async def test_a_function_that_nobody_serves_is_known_at_once_and_given_up_after_the_grace() -> None:
    async with _running() as (_, client, session):
        await _submit(client, native("nobody", writes="a"))
        assert isinstance(await raised_by(session.get("a", WAIT_S)), FunctionNotServed)


async def test_a_call_that_is_cut_off_by_a_restart_of_the_server_is_made_again() -> None:
    async with _running(grace_s=20) as (server, client, session):
        host = await _HostProcess.start(server.url, client.tenant, "host")
        try:
            await _submit(client, native("hold", writes="a", max_attempts=1))
            await host.says("called hold 1")
            await server.restart()
            await host.says("called hold 1")
            await _submit(client, native("echo", reads={"text": "hello"}, writes="b"))
            assert await session.get("b", WAIT_S) == "host: hello"
        finally:
            await host.kill()


@pytest.mark.parametrize("size", [200_000, 3_000_000])
async def test_texts_of_every_size_are_arguments(size: int) -> None:
    """One that is too large for a message is a claim check, which this host only repeats."""
    async with _running() as (server, client, session):
        host = await _HostProcess.start(server.url, client.tenant, "host")
        try:
            await _submit(client, native("echo", reads={"text": ref("x")}, writes="a"))
            await session.set("x", "x" * size)
            answer = await session.get("a", WAIT_S)
            assert answer == f"host: {'x' * size}" if size < 256 * 1024 else "'digest': " in answer
        finally:
            await host.kill()
