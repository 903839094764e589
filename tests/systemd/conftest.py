"""A machine with a real systemd, installed as deploy/README.md says. Each test finds the same services running."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.guide import steps
from tests.systemd.machine import Machine, missing

REPOSITORY = Path(__file__).parents[2]
REQUIRED = "PARROT_REQUIRE_SYSTEMD"
"""Set to 1 where these tests must run: a machine that cannot run them fails them."""


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def bare_machine(wheels: Path) -> Iterator[Machine]:
    """A machine on which nothing is installed yet; use `machine`."""
    if reason := missing():
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{REQUIRED}=1, but {reason}")
        pytest.skip(reason)
    with Machine(wheels) as booted:
        yield booted


@pytest.fixture(scope="session")
def installed_machine(bare_machine: Machine) -> Machine:
    """The machine after the steps of the guide: nats-server and a pair of coordinators run."""
    for step in steps("install"):
        bare_machine.shell(step)
    return bare_machine


@pytest.fixture
def machine(installed_machine: Machine) -> Iterator[Machine]:
    """The machine with nats-server and a pair of coordinators, but no worker and no autoscaler.

    What a test changes of units by `drop_in`, and what it starts, ends with it.
    """
    yield installed_machine
    installed_machine.reset()
