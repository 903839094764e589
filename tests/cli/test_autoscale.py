"""`parrot-mq autoscale`: its options, and what it tells the service manager; the rest in `tests/autoscale`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from parrot_mq.autoscale.autoscaler import AutoscalerBoard
from parrot_mq.cli.autoscale import STUCK_S, AutoscalerCondition, autoscaler_name, default_config
from parrot_mq.messages import ScalingDecision

PARROT_MQ = (sys.executable, "-m", "parrot_mq")


async def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {key: value for key, value in os.environ.items() if not key.startswith("PARROT_MQ_")}
    return await asyncio.to_thread(
        subprocess.run,
        [*PARROT_MQ, "autoscale", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=known | environment,
    )


def _settings(folder: Path) -> str:
    path = folder / "autoscaler.toml"
    path.write_text("[models.tiny]\nslots = '0-1'\n")
    return str(path)


# -- the command -----------------------------------------------------------------------------------------------------


async def test_settings_that_are_missing_are_named(tmp_path: Path) -> None:
    done = await _run("--config", str(tmp_path / "none.toml"))
    assert done.returncode != 0
    assert "none.toml" in done.stderr


async def test_without_a_server_it_says_so(tmp_path: Path) -> None:
    done = await _run("--config", _settings(tmp_path), "--once", "--servers", "nats://127.0.0.1:1")
    assert done.returncode == 1
    assert "cannot connect to NATS" in done.stderr


async def test_without_systemd_it_changes_nothing_and_says_why(tmp_path: Path, nats_url: str) -> None:
    bus = {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={tmp_path}/none"}
    done = await _run("--config", _settings(tmp_path), "--once", "--user", "--servers", nats_url, **bus)
    assert done.returncode == 1
    assert "nothing was changed: systemd does not answer over D-Bus" in done.stderr


def test_settings_of_a_user_are_in_the_users_folder(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert default_config(user=True, environ=environ) == tmp_path / "parrot-mq" / "autoscaler.toml"
    assert default_config(user=False, environ=environ) == Path("/etc/parrot-mq/autoscaler.toml")


def test_those_who_do_not_share_units_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.setattr("socket.gethostname", lambda: "host-a")
    assert autoscaler_name(user=False) == "host-a"
    assert autoscaler_name(user=True) == "host-a:ada"


# -- for the service manager -----------------------------------------------------------------------------------------


def test_it_is_ready_when_it_has_looked_once_and_stuck_when_it_looks_no_more() -> None:
    now = 100.0
    board = AutoscalerBoard()
    condition = AutoscalerCondition(board, lambda: now)
    assert condition.read().phase == "starting"
    board.ticked_at = now
    board.counts["tiny"] = 2, 1
    board.decisions["tiny"] = ScalingDecision(at=0, model="tiny", kind="up", num_workers=3, target=3, wanted=4)
    found = condition.read()
    assert (found.phase, found.is_alive) == ("ready", True)
    assert found.status == "tiny: 2 ready and 1 starting, 4 wanted"
    board.problem = "nobody answers"
    assert condition.read().status.startswith("nothing is changed: nobody answers; tiny: ")
    now += STUCK_S
    assert not condition.read().is_alive
    condition.is_stopping = True
    assert condition.read().phase == "stopping"
