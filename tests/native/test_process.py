"""`parrot-mq native` as a process on a real server: calls survive its death, and it ends in order."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from parrot_mq.bus import BusConfig, NatsServer, open_bus
from parrot_mq.client import Client
from parrot_mq.coordinator import open_coordinator
from parrot_mq.program import SemanticVariable
from tests.coordinator.service import FAST, WAIT_S, eventually
from tests.native.process_functions import echo, hold, hold_in_thread

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def service() -> AsyncIterator[tuple[str, Client]]:
    """Server and coordinator; no worker is needed."""
    async with NatsServer() as server:
        config = BusConfig(servers=(server.url,))
        async with (
            open_bus(config) as coordinator_bus,
            open_coordinator(coordinator_bus, FAST),
            open_bus(config) as bus,
        ):
            yield server.url, Client(bus)


class _Host:
    """A process that serves."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[dict[str, object]] = []

    async def wait_ready(self) -> None:
        """Wait until calls can come."""
        await self.wait_event("native_host_started")

    async def wait_event(self, name: str) -> None:
        """Wait for an event in its log."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            while line := await self.process.stdout.readline():
                if line.startswith(b"{"):
                    self.lines.append(json.loads(line))
                    if self.lines[-1]["event"] == name:
                        return
        raise AssertionError(f"it ended without {name}: {self.lines}")


@asynccontextmanager
async def _running_host(url: str, *options: str) -> AsyncIterator[_Host]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "parrot_mq", "native", "tests/native/process_functions.py", "--servers", url, *options),
        cwd=ROOT,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
    )
    host = _Host(process)
    try:
        await host.wait_ready()
        yield host
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _wait_running(folder: Path, host: _Host) -> None:
    await eventually(lambda: (folder / str(host.process.pid)).exists())


@pytest.mark.parametrize("function", [hold, hold_in_thread], ids=lambda function: str(function.name))
async def test_a_call_survives_the_kill_of_its_host(
    service: tuple[str, Client], tmp_path: Path, function: object
) -> None:
    url, client = service
    assert function in (hold, hold_in_thread)
    async with client.session(), _running_host(url) as first:
        result = hold(str(tmp_path)) if function is hold else hold_in_thread(str(tmp_path))
        await _wait_running(tmp_path, first)
        async with _running_host(url) as second:
            os.kill(first.process.pid, signal.SIGKILL)
            await _wait_running(tmp_path, second)
            (tmp_path / "go").touch()
            assert await result == f"{second.process.pid}"


async def test_a_host_that_is_stopped_ends_what_it_runs_and_takes_no_more(
    service: tuple[str, Client], tmp_path: Path
) -> None:
    url, client = service
    before, after = tmp_path / "before", tmp_path / "after"
    for folder in (before, after):
        folder.mkdir()
    async with client.session(), _running_host(url) as first:
        result = hold(str(before))
        await _wait_running(before, first)
        async with _running_host(url) as second:
            first.process.terminate()
            await first.wait_event("native_host_stopping")
            (after / "go").touch()
            assert await hold(str(after)) == f"{second.process.pid}"
            (before / "go").touch()
            assert await result == f"{first.process.pid}"
            async with asyncio.timeout(WAIT_S):
                assert await first.process.wait() == 0


async def test_what_a_stopped_host_does_not_end_in_time_goes_to_another(
    service: tuple[str, Client], tmp_path: Path
) -> None:
    url, client = service
    async with client.session(), _running_host(url, "--drain", "0.1") as first:
        result = hold_in_thread(str(tmp_path))
        await _wait_running(tmp_path, first)
        async with _running_host(url) as second:
            first.process.terminate()
            async with asyncio.timeout(WAIT_S):
                assert await first.process.wait() == 0
            await _wait_running(tmp_path, second)
            (tmp_path / "go").touch()
            assert await result == f"{second.process.pid}"


NUM_CALLS, NUM_KILLS = 500, 5


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_every_call_has_its_result_however_often_hosts_are_killed(service: tuple[str, Client]) -> None:
    """Also what was on its way to a host that was killed, and no beat has told of."""
    url, client = service
    async with AsyncExitStack() as stack, client.session():

        async def start() -> _Host:
            return await stack.enter_async_context(_running_host(url, "--concurrency", "4", "--log-level", "info"))

        hosts = [await start(), await start()]
        results = [asyncio.get_running_loop().create_task(_read(echo(str(number)))) for number in range(NUM_CALLS)]
        for kill in range(1, NUM_KILLS + 1):
            await _wait_done(results, kill * NUM_CALLS // (NUM_KILLS + 2))
            os.kill(hosts.pop(0).process.pid, signal.SIGKILL)
            hosts.append(await start())
        assert await asyncio.gather(*results) == [f"<{number}>" for number in range(NUM_CALLS)]


async def _read(variable: SemanticVariable) -> str:
    return await variable


async def _wait_done(results: list[asyncio.Task[str]], number: int) -> None:
    await eventually(lambda: sum(result.done() for result in results) >= number, within_s=40)
