"""`parrot-mq units`: what is installed where. That systemd takes it is shown in tests/systemd."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parrot_mq.cli.app import app
from parrot_mq.cli.units import app as units
from parrot_mq.cli.units import installed_files
from parrot_mq.errors import ConfigurationError

PREFIX = "/srv/parrot"


def _install(root: Path) -> str:
    result = CliRunner().invoke(units, ["install", "--root", str(root), "--prefix", PREFIX])
    assert result.exit_code == 0, result.output
    return result.output


def test_units_run_the_environment_that_was_named(tmp_path: Path) -> None:
    _install(tmp_path)
    folder = tmp_path / "usr/local/lib/systemd/system"
    for unit in folder.glob("*.service"):
        assert re.findall(r"^ExecStart=(\S+)/bin/", unit.read_text(), re.MULTILINE) == [PREFIX]
    assert {unit.name for unit in folder.iterdir()} == {
        "parrot-autoscaler.service",
        "parrot-coordinator@.service",
        "parrot-native@.service",
        "parrot-nats.service",
        "parrot-worker@.service",
        "parrot-workers.slice",
        "parrot-workers.target",
        "parrot.slice",
    }


def test_settings_are_written_once_and_units_each_time(tmp_path: Path) -> None:
    _install(tmp_path)
    settings, unit = tmp_path / "etc/parrot-mq/worker.env", tmp_path / "usr/local/lib/systemd/system/parrot.slice"
    settings.write_text("mine")
    unit.write_text("old")
    said = _install(tmp_path)
    assert f"kept     {settings}" in said
    assert settings.read_text() == "mine"
    assert unit.read_text() != "old"


def test_uninstalling_leaves_the_settings_alone(tmp_path: Path) -> None:
    _install(tmp_path)
    result = CliRunner().invoke(units, ["uninstall", "--root", str(tmp_path)])
    assert result.exit_code == 0, result.output
    left = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {("etc", "parrot-mq")}


def test_what_the_sandbox_hides_cannot_be_run(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["units", "install", "--root", str(tmp_path), "--prefix", "/home/me/venv"])
    assert isinstance(result.exception, ConfigurationError)
    assert "their sandbox hides it; use /opt/parrot-mq" in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_a_user_has_the_same_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    names = {file.target.name for file in installed_files(user=True) if file.target.suffix == ".service"}
    assert names == {file.target.name for file in installed_files(user=False) if file.target.suffix == ".service"}
    for file in installed_files(user=True):
        folder = "config/parrot-mq" if file.is_settings else "data/systemd/user"
        assert file.target == tmp_path / folder / file.target.name


def test_every_service_of_the_machine_has_the_same_sandbox() -> None:
    """Each unit says all of it, so that it can be read alone: so they must not drift apart."""
    services = [file for file in installed_files(user=False) if file.target.suffix == ".service"]
    keys = ("Protect", "Restrict", "Private", "Capability", "NoNew", "LockP", "SystemCallA", "SystemCallE", "UMask")
    said = {}
    for file in services:
        lines = {line for line in file.source.read_text().splitlines() if line.startswith(keys)}
        said[file.target.name] = lines - {"Restart=on-failure", "PrivateDevices=yes"}
    assert len(set(map(frozenset, said.values()))) == 1, said
