"""The private nats-server."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from parrot_mq.bus import BusConfig, NatsServer, open_bus
from parrot_mq.bus.server import find_server_binary
from parrot_mq.errors import ConfigurationError, ServerStartFailed
from parrot_mq.messages.subjects import STREAM_VARS, variable_subject
from tests.bus.worlds import WAIT_S

PARENT = """
import asyncio, sys
from parrot_mq.bus import NatsServer
async def main():
    server = await NatsServer(store_dir=sys.argv[1]).start()
    print(server.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_it_starts_ready_and_stops_without_a_trace() -> None:
    async with NatsServer() as server:
        folder, pid = server.log_file.parent, server.pid
        async with open_bus(BusConfig(servers=(server.url,))) as bus:
            await bus.ensure_streams()
    assert not server.is_running
    assert not folder.exists()
    assert _has_ended(pid)
    await server.stop()


async def test_it_restarts_on_its_port_with_what_it_stored(tmp_path: Path) -> None:
    """Also after a SIGKILL, and as another object with the same folder."""
    subject = variable_subject("t", "s", "v")
    async with NatsServer(store_dir=tmp_path) as server:
        url, pid = server.url, server.pid
        async with open_bus(BusConfig(servers=(url,))) as bus:
            await bus.ensure_streams()
            await bus.publish_once(subject, b"kept")
        await server.kill()
        assert not server.is_running
        assert server.pid == 0
        await server.restart()
        assert (server.url, server.pid != pid) == (url, True)
    async with NatsServer(store_dir=tmp_path) as server, open_bus(BusConfig(servers=(server.url,))) as bus:
        assert (await bus.get(STREAM_VARS, [subject]))[subject].payload == b"kept"


async def test_a_server_that_dies_is_noticed() -> None:
    async with NatsServer() as server, asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        stopped = group.create_task(server.wait_stopped())
        os.kill(server.pid, signal.SIGKILL)
        assert await stopped == -signal.SIGKILL


async def test_a_port_in_use_is_named_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = NatsServer(port=port)
        with pytest.raises(ServerStartFailed, match=rf"port {port} of 127\.0\.0\.1 is in use.*choose another port"):
            await server.start()
    assert not server.is_running
    await server.start()
    assert server.port == port
    await server.stop()


async def test_a_bad_configuration_line_is_shown() -> None:
    with pytest.raises(ServerStartFailed, match="no_such_option"):
        await NatsServer(extra_config=["no_such_option: 1"]).start()


async def test_a_missing_program_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(ServerStartFailed, match=r"parrot-mq\[server\]"):
        find_server_binary({"PATH": str(tmp_path)})


def test_the_program_can_be_chosen(tmp_path: Path) -> None:
    program = tmp_path / "my-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_server_binary({"PARROT_MQ_NATS_SERVER": str(program), "PATH": ""}) == str(program)
    with pytest.raises(ConfigurationError, match="PARROT_MQ_NATS_SERVER="):
        find_server_binary({"PARROT_MQ_NATS_SERVER": str(tmp_path / "none")})


async def test_a_program_that_is_no_server_shows_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nats-server"
    program.write_text("#!/bin/sh\necho I am not a server\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PARROT_MQ_NATS_SERVER", str(program))
    with pytest.raises(ServerStartFailed, match=r"status 3: I am not a server"):
        await NatsServer().start()


async def test_it_stops_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = await asyncio.to_thread(
        subprocess.Popen,
        [sys.executable, "-c", PARENT, str(tmp_path / "store")],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    try:
        pid = int(await asyncio.to_thread(parent.stdout.readline))
        assert not _has_ended(pid)
        parent.kill()
        async with asyncio.timeout(WAIT_S):
            while not _has_ended(pid):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        parent.kill()
        parent.stdout.close()
        await asyncio.to_thread(parent.wait)


def _has_ended(pid: int) -> bool:
    """Whether a process is gone; one that its new parent did not reap yet counts as gone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"
