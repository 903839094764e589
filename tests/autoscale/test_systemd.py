"""systemd over D-Bus, as far as that needs none; with a real one in `tests/systemd`."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parrot_mq.autoscale.systemd import Systemd, _Listed, _phase
from parrot_mq.autoscale.units import UnitPhase
from parrot_mq.errors import ConfigurationError, ServiceManagerUnavailable


@pytest.mark.parametrize(
    ("load", "active", "sub", "job", "phase"),
    [
        ("loaded", "inactive", "dead", "", UnitPhase.OFF),
        ("loaded", "inactive", "dead", "start", UnitPhase.STARTING),
        ("not-found", "inactive", "dead", "", UnitPhase.UNAVAILABLE),
        ("masked", "inactive", "dead", "", UnitPhase.UNAVAILABLE),
        ("masked", "failed", "failed", "", UnitPhase.UNAVAILABLE),
        ("masked", "active", "running", "", UnitPhase.RUNNING),
        ("loaded", "activating", "start", "start", UnitPhase.STARTING),
        ("loaded", "activating", "auto-restart", "", UnitPhase.RESTARTING),
        ("loaded", "active", "running", "", UnitPhase.RUNNING),
        ("loaded", "active", "running", "stop", UnitPhase.STOPPING),
        ("loaded", "deactivating", "stop-sigterm", "stop", UnitPhase.STOPPING),
        ("loaded", "failed", "failed", "", UnitPhase.FAILED),
    ],
)
def test_what_a_unit_does_follows_from_its_states(load: str, active: str, sub: str, job: str, phase: UnitPhase) -> None:
    assert _phase(_Listed("a.service", "", load, active, sub, "", "/a", 0, job, "/")) is phase


async def test_without_a_bus_it_says_that_systemd_does_not_answer(tmp_path: Path) -> None:
    async with Systemd(address=f"unix:path={tmp_path}/none") as systemd:
        with pytest.raises(ServiceManagerUnavailable, match="No such file"):
            await systemd.read(["a.service"])


async def test_a_bus_that_does_not_answer_is_given_up_in_time(tmp_path: Path) -> None:
    is_left = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        is_left.set()

    server = await asyncio.start_unix_server(silent, tmp_path / "bus")
    async with server, Systemd(address=f"unix:path={tmp_path}/bus", timeout_s=0.1) as systemd:
        with pytest.raises(ServiceManagerUnavailable, match=r"no answer within 0\.1 s"):
            await systemd.start("a.service")
        await is_left.wait()


def test_a_user_without_a_session_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(ConfigurationError, match="XDG_RUNTIME_DIR"):
        Systemd(user=True)


def test_a_missing_library_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "dbus_fast":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigurationError, match=r"parrot-mq\[autoscale\]"):
        Systemd()
