"""What services may do, and who may do what with them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.systemd.machine import Machine
from tests.systemd.workers import use_scripted_workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SERVICES = ("parrot-nats", "parrot-coordinator@1", "parrot-worker@0", "parrot-autoscaler", "parrot-native@tools")


def _probe(machine: Machine, template: str, unit: str) -> dict[str, object]:
    """What a process may do in the sandbox of a unit."""
    shutil.copy(Path(__file__).parent / "probe.py", machine.shared / "probe.py")
    machine.drop_in(
        template,
        "[Service]\nType=oneshot\nRestart=no\nExecStart=\nExecStart=/opt/parrot-mq/bin/python /run/host/probe.py\n",
    )
    machine.run("systemctl", "stop", unit)
    machine.run("systemctl", "start", unit)
    (line,) = re.findall(r"^PROBE (.*)$", machine.journal(unit, "--since=-60s", output="cat"), re.MULTILINE)[-1:]
    facts: dict[str, object] = json.loads(line)
    return facts


def test_systemd_understands_every_word_of_the_units(machine: Machine) -> None:
    done = machine.run("parrot-mq", "units", "verify")
    assert re.fullmatch(r"\d+ files are right\n", done.stdout)


@pytest.mark.parametrize("service", SERVICES)
def test_exposure_is_below_2(machine: Machine, service: str) -> None:
    said = machine.run("systemd-analyze", "security", "--no-pager", service, check=False).stdout
    found = re.search(r"Overall exposure level for .*: (\d+\.\d)", said)
    assert found is not None, said
    assert float(found[1]) < 2


def test_a_worker_opens_the_gpu_of_its_slot_and_no_other(machine: Machine) -> None:
    first = _probe(machine, "parrot-worker@.service", "parrot-worker@0")
    second = _probe(machine, "parrot-worker@.service", "parrot-worker@1")
    assert (first["nvidia0"], first["nvidia1"]) != (second["nvidia0"], second["nvidia1"])
    assert (first["nvidia1"], second["nvidia0"]) == ("PermissionError", "PermissionError")


@pytest.mark.parametrize(
    ("template", "unit"),
    [
        ("parrot-worker@.service", "parrot-worker@0"),
        ("parrot-coordinator@.service", "parrot-coordinator@1"),
        ("parrot-autoscaler.service", "parrot-autoscaler"),
    ],
)
def test_a_service_has_its_credentials_and_nothing_else(machine: Machine, template: str, unit: str) -> None:
    machine.run("tee", "/etc/parrot-mq/nats.creds", stdin="jwt and seed")
    machine.run("chmod", "600", "/etc/parrot-mq/nats.creds")
    try:
        facts = _probe(machine, template, unit)
    finally:
        machine.run("rm", "/etc/parrot-mq/nats.creds")
    assert facts["uid"] != 0
    assert facts["capabilities"] == "0" * 16
    assert facts["credentials"] == "jwt and seed"
    assert facts["read secret"] == "PermissionError"
    assert facts["write /etc"] == "OSError", "it is read-only"
    assert facts["list /root"] in ("PermissionError", "FileNotFoundError")
    assert facts["sees systemd"] is False
    assert facts["write cache"] == ("ok" if "worker" in unit else "OSError")


def test_credentials_need_not_exist(machine: Machine) -> None:
    assert _probe(machine, "parrot-worker@.service", "parrot-worker@0")["credentials"] == ""


# -- who may start what ----------------------------------------------------------------------------------------------


def _systemctl(machine: Machine, user: str, *arguments: str) -> str:
    """What systemd answers a user; empty if it obeys."""
    done = machine.run("systemctl", "--no-ask-password", *arguments, user=user, check=False)
    return done.stderr if done.returncode else ""


def test_the_autoscaler_may_start_and_stop_workers(machine: Machine) -> None:
    use_scripted_workers(machine)
    assert _systemctl(machine, "parrot-autoscaler", "start", "parrot-worker@7") == ""
    assert _systemctl(machine, "parrot-autoscaler", "stop", "parrot-worker@7") == ""


def test_the_autoscaler_may_forgive_a_failed_worker(machine: Machine) -> None:
    machine.drop_in("parrot-worker@.service", "[Service]\nRestart=no\nExecStart=\nExecStart=/bin/false\n")
    assert "failed" in _systemctl(machine, "parrot-autoscaler", "start", "parrot-worker@7")
    assert _systemctl(machine, "parrot-autoscaler", "reset-failed", "parrot-worker@7") == ""
    assert machine.show("parrot-worker@7", "ActiveState")["ActiveState"] == "inactive"


@pytest.mark.parametrize(
    "command",
    [
        ("stop", "parrot-nats"),
        ("restart", "parrot-coordinator@1"),
        ("kill", "parrot-nats"),
        ("start", "parrot-worker@1000"),
        ("stop", "dbus.service"),
    ],
)
def test_the_autoscaler_may_do_nothing_else(machine: Machine, command: tuple[str, str]) -> None:
    assert "Access denied" in _systemctl(machine, "parrot-autoscaler", *command)


def test_nobody_else_may_start_workers(machine: Machine) -> None:
    assert "authentication required" in _systemctl(machine, "nobody", "start", "parrot-worker@0")
