"""The autoscaler on a real systemd, as a user without privileges: it starts and stops units as work comes and goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from parrot_mq import Input, Output, semantic_function
from parrot_mq.autoscale.systemd import Systemd
from parrot_mq.autoscale.units import Unit, UnitPhase
from parrot_mq.client import Client
from parrot_mq.errors import UnitRefused
from tests.systemd.machine import Machine
from tests.systemd.workers import SERVERS, echo, use_scripted_workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

AUTOSCALER = "parrot-autoscaler.service"
SETTINGS = """
tick_s = 0.5
[policy]
default_slots = 4
up_delay_s = 0.5
stable_window_s = 5
panic_window_s = 2
latency_wait_s = 2
throughput_wait_s = 2
down_window_s = 3
down_step_s = 0.5
min_uptime_s = 1
idle_to_zero_s = 3
[models.tiny]
slots = "0-2"
"""


def _unit(slot: int) -> str:
    return f"parrot-worker@{slot}.service"


WORKERS = tuple(map(_unit, range(3)))


@semantic_function
def write(about: Input, text: Output = Output(max_tokens=100, ignore_eos=True)) -> None:
    """Write about {{about}}: {{text}}"""


@asynccontextmanager
async def _client(machine: Machine) -> AsyncIterator[Client]:
    with machine.network():
        async with Client.connect(SERVERS) as client:
            yield client


def _start_autoscaler(machine: Machine, settings: str = SETTINGS) -> None:
    """Start the unit with settings that do not take minutes."""
    (machine.shared / "autoscaler.toml").write_text(settings)
    command = "/opt/parrot-mq/bin/parrot-mq autoscale --config /run/host/autoscaler.toml"
    machine.drop_in(AUTOSCALER, f"[Service]\nExecStart=\nExecStart={command}\nRestartSec=100ms\n")
    machine.run("rm", "-rf", "/var/lib/parrot-autoscaler/autoscaler.json")
    machine.run("systemctl", "start", AUTOSCALER)


async def _wait(machine: Machine, unit: str, **expected: str) -> None:
    await asyncio.to_thread(lambda: machine.wait(unit, **expected))  # type: ignore[arg-type]  # no time among these


async def _wait_gone(machine: Machine, *units: str) -> None:
    for unit in units:
        await _wait(machine, unit, ActiveState="inactive", Result="success")


async def _wait_no_workers(machine: Machine) -> None:
    """Wait until the coordinator has given up the workers of the test before."""
    async with asyncio.timeout(30):
        while (await _status(machine))["report"].get("workers"):  # noqa: ASYNC110, another process
            await asyncio.sleep(0.2)


async def _status(machine: Machine) -> dict[str, Any]:
    """What `parrot-mq status` says."""
    done = await asyncio.to_thread(machine.run, "parrot-mq", "status", "--json", user="nobody")
    known: dict[str, Any] = json.loads(done.stdout)
    return known


def _num_active(machine: Machine) -> int:
    return sum(machine.show(unit, "ActiveState")["ActiveState"] == "active" for unit in WORKERS)


# -- the whole -------------------------------------------------------------------------------------------------------


async def test_workers_with_a_model_come_with_the_work_and_go_after_it(machine: Machine) -> None:
    """From none to several and back to none; every result is there, and nobody but the autoscaler did anything."""
    machine.drop_in("parrot-worker@.service", "[Service]\nEnvironment=PARROT_MQ_WORKER_NUM_SLOTS=4\n")
    _start_autoscaler(machine)
    assert machine.show(AUTOSCALER, "User", "StatusText") == {
        "User": "parrot-autoscaler",
        "StatusText": "tiny: 0 ready, 0 wanted",
    }
    most = 0
    async with _client(machine) as client, client.session():
        results = [write(about=f"subject {number}") for number in range(120)]
        work = asyncio.gather(*(result.get(timeout_s=240) for result in results))
        while not work.done():
            most = max(most, await asyncio.to_thread(_num_active, machine))
            await asyncio.wait([work], timeout=0.2)
        texts = await work
    assert all(texts)
    assert most >= 2
    await _wait_gone(machine, *WORKERS)
    await _wait(machine, AUTOSCALER, StatusText="tiny: 0 ready, 0 wanted")
    entries = [
        json.loads(line)
        for line in machine.journal(AUTOSCALER, "PARROT_EVENT=scaling_decided", output="json").splitlines()
    ]
    kinds = [entry["PARROT_KIND"] for entry in entries]
    assert "activate" in kinds
    assert "to_zero" in kinds
    page = machine.run("parrot-mq", "status").stdout
    assert "parrot-worker@0" in page
    assert "to zero" in page or "1 → 0" in page
    assert all(entry["PARROT_REASON"] and entry["PARROT_WANT"].isdecimal() for entry in entries)


# -- processes that die ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["worker", "autoscaler", "coordinator"])
async def test_what_is_killed_comes_back_and_the_work_is_done(machine: Machine, victim: str) -> None:
    use_scripted_workers(machine, service="RestartSec=100ms", SCRIPTED_STEP_S=0.02, SCRIPTED_SLOTS=4)
    _start_autoscaler(machine)
    texts = [f"story number {number} of several. " * 5 for number in range(24)]
    units = {"worker": [_unit(0)], "autoscaler": [AUTOSCALER], "coordinator": ["parrot-coordinator@*"]}[victim]
    async with _client(machine) as client, client.session():
        results = [echo(text=text) for text in texts]
        await _wait(machine, _unit(0), StatusText="tiny: [1-4]/4 running.*")
        machine.run("systemctl", "kill", "--signal=KILL", *units)
        found = await asyncio.gather(*(result.get(timeout_s=120) for result in results))
    assert found == [text.upper() for text in texts]
    await _wait_gone(machine, *WORKERS)
    assert machine.show(AUTOSCALER, "NRestarts")["NRestarts"] == ("1" if victim == "autoscaler" else "0")


async def test_while_the_server_is_away_workers_are_left_alone(machine: Machine) -> None:
    use_scripted_workers(machine)
    _start_autoscaler(machine)
    async with _client(machine) as client, client.session():
        assert await echo(text="hello") == "HELLO"
    machine.run("systemctl", "stop", "parrot-nats")
    await _wait(machine, AUTOSCALER, StatusText="nothing is changed: .*")
    await asyncio.sleep(6)  # nothing to wait for: longer than the last worker is kept without work
    assert machine.show(_unit(0), "ActiveState")["ActiveState"] == "active"
    machine.run("systemctl", "start", "parrot-nats")
    await _wait_gone(machine, *WORKERS)


async def test_a_slot_where_workers_do_not_start_is_passed_over(machine: Machine) -> None:
    use_scripted_workers(machine, service="RestartSec=100ms")
    machine.drop_in(_unit(0), "[Service]\nExecStart=\nExecStart=/bin/false\n", name="zz-broken")
    _start_autoscaler(machine, "quarantine_s = 3\n" + SETTINGS)
    async with _client(machine) as client, client.session():
        assert await echo(text="hello").get(timeout_s=60) == "HELLO"
    await _wait(machine, _unit(1), ActiveState="active")
    found = machine.journal(AUTOSCALER, "PARROT_EVENT=worker_start_failed", output="json").splitlines()
    assert json.loads(found[0])["PARROT_REASON"] == "it ended with exit-code; left alone for 3 s"
    assert json.loads(found[0])["PARROT_SLOT"] == "0"
    await _wait_gone(machine, *WORKERS[1:])


# -- who may do what -------------------------------------------------------------------------------------------------


async def test_what_an_operator_has_started_is_not_stopped(machine: Machine) -> None:
    use_scripted_workers(machine, SCRIPTED_STEP_S=0.02, SCRIPTED_SLOTS=4)
    machine.run("systemctl", "start", _unit(0))
    _start_autoscaler(machine)
    async with _client(machine) as client, client.session():
        results = [echo(text=f"story number {number} of several. " * 5) for number in range(24)]
        await _wait(machine, _unit(1), ActiveState="active")
        (autoscaler,) = (await _status(machine))["report"]["autoscalers"]
        assert [slot.get("owner", "") for slot in autoscaler["slots"][:2]] == ["others", "autoscaler"]
        await asyncio.gather(*(result.get(timeout_s=120) for result in results))
    await _wait_gone(machine, _unit(1), _unit(2))
    await asyncio.sleep(5)  # nothing to wait for: longer than the last worker is kept without work
    assert machine.show(_unit(0), "ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}


async def test_the_autoscaler_may_start_and_stop_workers_and_nothing_else(machine: Machine) -> None:
    use_scripted_workers(machine)
    me = {"user": "parrot-autoscaler", "check": False}
    assert machine.run("systemctl", "start", _unit(2), **me).returncode == 0  # type: ignore[arg-type]
    assert machine.run("systemctl", "stop", _unit(2), **me).returncode == 0  # type: ignore[arg-type]
    refused = machine.run("systemctl", "stop", "parrot-nats.service", **me)  # type: ignore[arg-type]
    assert "Access denied" in refused.stderr
    assert machine.show("parrot-nats.service", "ActiveState")["ActiveState"] == "active"


async def test_a_user_without_the_right_is_refused_and_told_so(machine: Machine) -> None:
    use_scripted_workers(machine)
    await _wait_no_workers(machine)
    (machine.shared / "autoscaler.toml").write_text(SETTINGS + "min_workers = 1\n")
    command = ("parrot-mq", "autoscale", "--config", "/run/host/autoscaler.toml", "--once", "--json")
    done = await asyncio.to_thread(machine.run, *command, user="nobody", check=False)
    assert "nteractive authentication required" in done.stderr, done
    assert json.loads(done.stdout.splitlines()[0])["kind"] == "activate"
    assert machine.show(_unit(0), "ActiveState")["ActiveState"] == "inactive"


# -- the port --------------------------------------------------------------------------------------------------------


async def _see(systemd: Systemd, name: str, phase: UnitPhase) -> Unit:
    """Wait until a unit is in a phase."""
    async with asyncio.timeout(30):
        while (unit := (await systemd.read([name]))[name]).phase is not phase:  # noqa: ASYNC110, another process
            await asyncio.sleep(0.02)
    return unit


async def test_the_port_says_how_units_stand_and_whose_run_it_is(machine: Machine) -> None:
    """A restart by systemd is counted; a start by hand begins to count anew."""
    use_scripted_workers(machine, service="RestartSec=1s", SCRIPTED_LOAD_S=0.5)
    name = _unit(0)
    async with Systemd(address=machine.system_bus) as systemd:
        assert (await systemd.read([name]))[name] == Unit(name=name)
        await systemd.start(name)
        starting = await _see(systemd, name, UnitPhase.STARTING)
        running = await _see(systemd, name, UnitPhase.RUNNING)
        assert running.invocation == starting.invocation != ""
        assert running.was_ready
        machine.run("systemctl", "kill", "--signal=KILL", name)
        ended = await _see(systemd, name, UnitPhase.RESTARTING)
        assert (ended.result, ended.was_ready) == ("signal", True)
        again = await _see(systemd, name, UnitPhase.RUNNING)
        assert (again.num_restarts, again.invocation != running.invocation) == (1, True)
        machine.run("systemctl", "restart", name)
        by_hand = await _see(systemd, name, UnitPhase.RUNNING)
        assert (by_hand.num_restarts, by_hand.invocation != again.invocation) == (0, True)
        assert by_hand.status.startswith("tiny:")
        await systemd.stop(name)
        assert await _see(systemd, name, UnitPhase.OFF) == Unit(name=name)


async def test_the_port_says_what_cannot_be_started(machine: Machine) -> None:
    use_scripted_workers(machine)
    masked, absent = _unit(1), "parrot-nothing@0.service"
    machine.run("systemctl", "mask", "--runtime", masked)
    async with Systemd(address=machine.system_bus) as systemd:
        units = await systemd.read([masked, absent])
        assert {unit.phase for unit in units.values()} == {UnitPhase.UNAVAILABLE}
        for name in (masked, absent):
            with pytest.raises(UnitRefused, match=r"masked|not found"):
                await systemd.start(name)
    machine.run("systemctl", "unmask", "--runtime", masked)
