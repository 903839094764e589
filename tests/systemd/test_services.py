"""Services as systemd runs them: starting, draining, watching, restarting."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from parrot_mq.client import Client
from tests.systemd.machine import Machine
from tests.systemd.workers import SERVERS, echo, use_scripted_workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WORKER = "parrot-worker@0.service"
PAIR = ("parrot-coordinator@1.service", "parrot-coordinator@2.service")


@asynccontextmanager
async def _client(machine: Machine) -> AsyncIterator[Client]:
    with machine.network():
        async with Client.connect(SERVERS) as client:
            yield client


async def _wait_status(machine: Machine, unit: str, pattern: str) -> dict[str, str]:
    return await asyncio.to_thread(machine.wait, unit, StatusText=pattern)


# -- starting --------------------------------------------------------------------------------------------------------


def test_start_returns_when_the_worker_is_ready(machine: Machine) -> None:
    use_scripted_workers(machine, SCRIPTED_LOAD_S=1)
    machine.run("systemctl", "start", WORKER)
    found = machine.show(WORKER, "ActiveState", "SubState", "StatusText", "Slice")
    assert (found["ActiveState"], found["SubState"], found["Slice"]) == ("active", "running", "parrot-workers.slice")
    assert found["StatusText"] == "tiny: 0/16 running, 0 tok/s"
    assert "slot-0" in machine.run("parrot-mq", "workers").stdout


def test_a_long_start_goes_on_as_long_as_there_is_progress(machine: Machine) -> None:
    use_scripted_workers(machine, service="TimeoutStartSec=3s", SCRIPTED_LOAD_S=6)
    machine.run("systemctl", "start", WORKER)
    assert machine.show(WORKER, "Result")["Result"] == "success"


def test_a_start_without_progress_is_given_up(machine: Machine) -> None:
    limits = "TimeoutStartSec=3s\nRestart=no\nTimeoutStopSec=1s"
    use_scripted_workers(machine, service=limits, SCRIPTED_HANG=1, PARROT_MQ_WORKER_MAX_STAGE_S=1)
    assert machine.run("systemctl", "start", WORKER, check=False).returncode != 0
    machine.wait(WORKER, ActiveState="failed", Result="timeout")


# -- stopping --------------------------------------------------------------------------------------------------------


async def test_stop_drains_as_long_as_there_is_progress(machine: Machine) -> None:
    """A generation of six seconds ends within a stop of two, on the worker that began it."""
    use_scripted_workers(machine, service="TimeoutStopSec=2s", SCRIPTED_STEP_S=0.02)
    machine.run("systemctl", "start", WORKER)
    text = "a long story. " * 20
    async with _client(machine) as client, client.session(model="tiny") as session:
        result = echo(text=text)
        await _wait_status(machine, WORKER, "tiny: 1/16 running.*")
        began = time.monotonic()
        stopping = asyncio.to_thread(machine.run, "systemctl", "stop", WORKER)
        async with asyncio.TaskGroup() as group:
            group.create_task(stopping)
            await _wait_status(machine, WORKER, "tiny: 1/16 running, .*, draining")
        assert await result == text.upper()
        assert time.monotonic() - began > 2
        explained = await asyncio.to_thread(machine.run, "parrot-mq", "explain", session.name, "--json")
    assert machine.show(WORKER, "Result", "ActiveState") == {"Result": "success", "ActiveState": "inactive"}
    (story,) = json.loads(explained.stdout)["stories"]
    assert (story["worker"].endswith("-slot-0"), story["attempts"], story.get("lost")) == (True, 1, None)


async def test_stop_hands_over_what_does_not_end_in_time_with_its_tokens(machine: Machine) -> None:
    """Another worker goes on after the last token of the one that was stopped: nothing is lost or computed twice."""
    use_scripted_workers(machine, SCRIPTED_STEP_S=0.02, PARROT_MQ_WORKER_DRAIN_S=0.5)
    machine.run("systemctl", "start", WORKER)
    text = "a long story. " * 20
    async with _client(machine) as client, client.session(model="tiny") as session:
        result = echo(text=text)
        await _wait_status(machine, WORKER, "tiny: 1/16 running.*")
        machine.run("systemctl", "start", "parrot-worker@1.service")
        await asyncio.to_thread(machine.run, "systemctl", "stop", WORKER)
        assert await result == text.upper()
        explained = await asyncio.to_thread(machine.run, "parrot-mq", "explain", session.name, "--json")
    assert machine.show(WORKER, "Result")["Result"] == "success"
    (story,) = json.loads(explained.stdout)["stories"]
    assert story["worker"].endswith("-slot-1")
    assert 0 < story["num_continued_tokens"] < len(text)


async def test_a_drain_without_progress_is_ended(machine: Machine) -> None:
    use_scripted_workers(machine, service="TimeoutStopSec=2s\nWatchdogSec=0")
    machine.run("systemctl", "start", WORKER)
    async with _client(machine) as client, client.session(model="tiny"):
        (machine.shared / "stuck").touch()
        result = echo(text="hello")
        await _wait_status(machine, WORKER, "tiny: 1/16 running.*")
        await asyncio.to_thread(machine.run, "systemctl", "stop", WORKER)
        assert machine.show(WORKER, "Result")["Result"] == "timeout"
        (machine.shared / "stuck").unlink()
        await asyncio.to_thread(machine.run, "systemctl", "start", WORKER)
        assert await result == "HELLO"


def test_stopping_the_target_drains_all_workers(machine: Machine) -> None:
    use_scripted_workers(machine)
    machine.run("systemctl", "start", "parrot-workers.target", WORKER, "parrot-worker@1.service")
    machine.run("systemctl", "stop", "parrot-workers.target")
    for unit in (WORKER, "parrot-worker@1.service"):
        machine.wait(unit, ActiveState="inactive", Result="success")


# -- failing ---------------------------------------------------------------------------------------------------------


async def test_a_stuck_step_ends_in_a_restart_and_the_work_is_done_after_it(machine: Machine) -> None:
    use_scripted_workers(machine, service="WatchdogSec=2s\nRestartSec=100ms", PARROT_MQ_WORKER_MAX_STEP_S=1)
    machine.run("systemctl", "start", WORKER)
    async with _client(machine) as client, client.session(model="tiny"):
        (machine.shared / "stuck").touch()
        result = echo(text="hello")
        await _wait_status(machine, WORKER, "stuck: the engine is in one step for .*")
        await asyncio.to_thread(machine.wait, WORKER, NRestarts="1")
        (machine.shared / "stuck").unlink()
        assert await result == "HELLO"
    assert "Watchdog timeout" in machine.journal(WORKER)


def test_an_idle_worker_is_left_alone_by_the_watchdog(machine: Machine) -> None:
    use_scripted_workers(machine, service="WatchdogSec=1s", PARROT_MQ_WORKER_MAX_STEP_S=0.5)
    machine.run("systemctl", "start", WORKER)
    time.sleep(4)  # nothing to wait for: this is about what does not happen
    assert machine.show(WORKER, "NRestarts", "ActiveState") == {"NRestarts": "0", "ActiveState": "active"}


def test_a_stopped_event_loop_ends_in_a_restart(machine: Machine) -> None:
    use_scripted_workers(machine, service="WatchdogSec=1s\nRestartSec=100ms")
    machine.run("systemctl", "start", WORKER)
    machine.run("systemctl", "kill", "--signal=STOP", WORKER)
    machine.wait(WORKER, NRestarts="1", ActiveState="active")


def test_a_worker_that_fails_again_and_again_is_given_up(machine: Machine) -> None:
    machine.drop_in(
        "parrot-worker@.service", "[Service]\nEnvironment=PARROT_MQ_WORKER_DTYPE=float13\nRestartSec=10ms\n"
    )
    machine.run("systemctl", "start", WORKER, check=False)
    machine.wait(WORKER, ActiveState="failed", NRestarts="5")
    assert "dtype='float13' (PARROT_MQ_WORKER_DTYPE)" in machine.journal(WORKER)
    machine.run("systemctl", "reset-failed", WORKER)
    use_scripted_workers(machine)
    machine.run("systemctl", "start", WORKER)


async def test_what_a_killed_worker_had_is_done_by_another(machine: Machine) -> None:
    use_scripted_workers(machine, service="RestartSec=100ms", SCRIPTED_STEP_S=0.02)
    machine.run("systemctl", "start", WORKER)
    texts = [f"story number {number} of several. " * 8 for number in range(8)]
    async with _client(machine) as client, client.session(model="tiny"):
        results = [echo(text=text) for text in texts]
        await _wait_status(machine, WORKER, "tiny: 8/16 running.*")
        machine.run("systemctl", "kill", "--signal=KILL", WORKER)
        machine.run("systemctl", "start", "parrot-worker@1.service")
        assert await asyncio.gather(*(result.get() for result in results)) == [text.upper() for text in texts]
    machine.wait(WORKER, NRestarts="1", ActiveState="active")


def _leader(machine: Machine) -> tuple[str, str]:
    """Unit of the coordinator that leads, and of the one that stands by."""
    one, other = PAIR
    end = time.monotonic() + 20
    while time.monotonic() < end:
        status = {unit: machine.show(unit, "StatusText")["StatusText"] for unit in PAIR}
        for leader, second in ((one, other), (other, one)):
            if status[leader].startswith("leads") and status[second].startswith("stands by"):
                return leader, second
        time.sleep(0.05)
    raise AssertionError(status)


async def test_a_killed_coordinator_is_replaced_and_comes_back(machine: Machine) -> None:
    use_scripted_workers(machine, SCRIPTED_STEP_S=0.02)
    machine.run("systemctl", "start", WORKER)
    leader, second = _leader(machine)
    before = int(machine.show(leader, "NRestarts")["NRestarts"])
    async with _client(machine) as client, client.session(model="tiny"):
        result = echo(text="a long story. " * 10)
        await _wait_status(machine, WORKER, "tiny: 1/16 running.*")
        machine.run("systemctl", "kill", "--signal=KILL", leader)
        await _wait_status(machine, second, "leads, .*")
        assert await result == "A LONG STORY. " * 10
    machine.wait(leader, NRestarts=str(before + 1), ActiveState="active", StatusText="stands by for .*")


def test_a_stopped_coordinator_is_restarted_by_the_watchdog(machine: Machine) -> None:
    machine.drop_in("parrot-coordinator@.service", "[Service]\nWatchdogSec=2s\nRestartSec=100ms\n")
    machine.run("systemctl", "restart", *PAIR)
    leader, second = _leader(machine)
    before = int(machine.show(leader, "NRestarts")["NRestarts"])
    machine.run("systemctl", "kill", "--signal=STOP", leader)
    machine.wait(leader, NRestarts=str(before + 1), ActiveState="active")
    machine.wait(second, StatusText="leads, .*")


# -- what operators see ----------------------------------------------------------------------------------------------


def test_events_are_in_the_journal_with_their_fields(machine: Machine) -> None:
    use_scripted_workers(machine)
    machine.run("systemctl", "start", WORKER)
    found = machine.journal(WORKER, "PARROT_EVENT=worker_state", "PARROT_SLOT=0", "PARROT_STATE=ready", output="json")
    entry = json.loads(found.splitlines()[-1])
    assert entry["MESSAGE"].startswith("worker_state ")
    assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"], entry["PARROT_MODEL"]) == ("6", "parrot-worker", "tiny")
    assert len(entry["MESSAGE_ID"]) == 32
    assert entry["_CAP_EFFECTIVE"] == "0"
