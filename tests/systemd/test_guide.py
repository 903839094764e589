"""The commands of deploy/README.md do what it says. Those of its first part have made the machine of all tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from parrot_mq import Client, native_function
from tests.systemd.guide import steps
from tests.systemd.machine import Machine
from tests.systemd.workers import SERVERS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_an_application_runs_on_a_worker_with_a_real_model(machine: Machine) -> None:
    (block,) = steps("try")
    said = machine.shell(block)
    assert "1 of 1 workers ready" in said
    assert "tiny" in said
    assert machine.show("parrot-worker@0", "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}


def test_workers_by_hand_are_there_after_a_boot(machine: Machine) -> None:
    (block,) = steps("by hand")
    machine.shell(block)
    try:
        for slot in (0, 1):
            assert machine.show(f"parrot-worker@{slot}", "ActiveState")["ActiveState"] == "active"
        wanted = machine.run("systemctl", "list-dependencies", "--plain", "parrot-workers.target").stdout
        assert "parrot-worker@0.service" in wanted
        assert machine.run("systemctl", "is-enabled", "parrot-workers.target").stdout == "enabled\n"
    finally:
        machine.run("systemctl", "disable", "--now", "parrot-worker@0", "parrot-worker@1", "parrot-workers.target")


def test_the_autoscaler_starts_a_worker_for_the_first_task(machine: Machine) -> None:
    (block,) = steps("autoscaler")
    said = machine.shell(block)
    assert "parrot-worker@0" in said
    assert machine.show("parrot-autoscaler", "User", "ActiveState") == {
        "User": "parrot-autoscaler",
        "ActiveState": "active",
    }
    assert machine.show("parrot-worker@0", "ActiveState")["ActiveState"] == "active"


async def test_native_functions_are_served_from_a_file(machine: Machine) -> None:
    @native_function
    def shout(text: str) -> str:
        raise AssertionError("it runs on the machine")

    (block,) = steps("native")
    said = await asyncio.to_thread(machine.shell, block)
    assert "shout: 0/16 running" in said
    try:
        with machine.network():
            async with Client.connect(SERVERS) as client, client.session():
                assert await shout("parrots") == "PARROTS"
        await asyncio.to_thread(machine.run, "systemctl", "restart", "parrot-native@tools")
        found = machine.show("parrot-native@tools", "ActiveState", "Result", "Slice")
        assert found == {"ActiveState": "active", "Result": "success", "Slice": "parrot.slice"}
    finally:
        machine.run("systemctl", "disable", "--now", "parrot-native@tools")


def test_the_credentials_are_for_root_alone(machine: Machine) -> None:
    (block,) = steps("credentials")
    machine.shell(block)
    try:
        assert machine.run("stat", "-c", "%a %U", "/etc/parrot-mq/nats.creds").stdout == "600 root\n"
        machine.run("systemctl", "restart", "parrot-coordinator@1")
    finally:
        machine.run("rm", "/etc/parrot-mq/nats.creds")


@pytest.fixture
def user(machine: Machine) -> Iterator[str]:
    """A user with a service manager, on a machine where nothing of ours runs for all."""
    machine.run("systemctl", "stop", "parrot-coordinator@1", "parrot-coordinator@2", "parrot-nats")
    machine.run("useradd", "--create-home", "--uid", "1500", "--shell", "/bin/bash", "alice")
    machine.run("systemctl", "start", "user@1500.service")
    yield "alice"
    machine.run("systemctl", "stop", "user@1500.service")
    machine.run("userdel", "--remove", "alice", check=False)


def test_one_user_runs_all_of_it_without_root(machine: Machine, user: str) -> None:
    (block,) = steps("user")
    said = machine.shell(block, user=user)
    assert "parrot-worker@0" in said
    status = machine.shell("systemctl --user status parrot-worker@0", user=user)
    assert "tiny: 0/64 running, 0 tok/s" in status
    machine.shell("parrot-mq units verify --user; parrot-mq units uninstall --user", user=user)
    assert machine.shell("systemctl --user list-units --plain --no-legend 'parrot-*.service'", user=user) == ""


def test_uninstalling_takes_the_units_and_leaves_the_settings(machine: Machine) -> None:
    (block,) = steps("uninstall")
    machine.run("tee", "-a", "/etc/parrot-mq/worker.env", stdin="# mine\n")
    machine.shell(block)
    try:
        assert machine.run("systemctl", "list-unit-files", "--no-legend", "parrot-*", check=False).stdout == ""
        assert machine.run("systemctl", "is-active", "parrot-nats", check=False).stdout == "inactive\n"
        assert machine.run("find", "/usr/local/lib", "/etc/polkit-1", "-name", "*parrot*").stdout == ""
    finally:
        for step in steps("install")[1:]:
            machine.shell(step)
    assert machine.run("tail", "-n1", "/etc/parrot-mq/worker.env").stdout == "# mine\n"
