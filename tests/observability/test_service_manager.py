"""What the service manager is told, and when."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from parrot_mq.errors import ConfigurationError
from parrot_mq.observability import Condition, Notifier, ServiceReporter, reporting_service


class _Manager:
    """The socket of a service manager."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        """What came since the last call."""
        lines: list[str] = []
        while True:
            try:
                lines += self._socket.recv(65536).decode().split("\n")
            except BlockingIOError:
                return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[_Manager]:
    listening = _Manager(tmp_path / "notify")
    yield listening
    listening.close()


class _Service:
    condition = Condition(phase="starting")

    def read(self) -> Condition:
        return self.condition


@pytest.fixture
def service() -> _Service:
    return _Service()


def _reporter(manager: _Manager, service: _Service, *, watchdog_s: float = 0.0) -> ServiceReporter:
    return ServiceReporter(Notifier(manager.address, watchdog_s=watchdog_s), service.read)


def _become(service: _Service, condition: Condition, reporter: ServiceReporter, manager: _Manager) -> list[str]:
    service.condition = condition
    reporter.tick()
    return manager.heard()


# -- the environment -------------------------------------------------------------------------------------------------


def test_without_a_manager_nothing_is_sent() -> None:
    notifier = Notifier.from_env({})
    assert not notifier.is_listening
    assert not notifier.send("READY=1")


@pytest.mark.parametrize(
    ("pid", "expected"), [("", 2.5), (str(os.getpid()), 2.5), ("1", 0.0)], ids=["nobody's", "ours", "another's"]
)
def test_the_watchdog_of_another_process_is_not_ours(pid: str, expected: float) -> None:
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "2500000", "WATCHDOG_PID": pid}
    assert Notifier.from_env(environ).watchdog_s == expected


def test_a_malformed_watchdog_is_named() -> None:
    with pytest.raises(ConfigurationError, match="WATCHDOG_USEC='soon': expected a whole number"):
        Notifier.from_env({"WATCHDOG_USEC": "soon"})


def test_an_abstract_address_is_understood() -> None:
    name = f"parrot-mq-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        assert Notifier(f"@{name}").send("READY=1", "STATUS=fine")
        assert listening.recv(100) == b"READY=1\nSTATUS=fine"


def test_a_manager_that_is_gone_does_not_stop_the_service(tmp_path: Path) -> None:
    assert not Notifier(str(tmp_path / "gone")).send("READY=1")


# -- what is told ----------------------------------------------------------------------------------------------------


def test_ready_and_stopping_are_told_once(manager: _Manager, service: _Service) -> None:
    reporter = _reporter(manager, service)
    assert _become(service, Condition(phase="starting"), reporter, manager) == []
    assert _become(service, Condition(phase="ready"), reporter, manager) == ["READY=1"]
    assert _become(service, Condition(phase="ready"), reporter, manager) == []
    assert _become(service, Condition(phase="stopping"), reporter, manager) == ["STOPPING=1"]
    assert _become(service, Condition(phase="stopping"), reporter, manager) == []


def test_a_status_is_one_line_and_told_when_it_changes(manager: _Manager, service: _Service) -> None:
    reporter = _reporter(manager, service)
    assert _become(service, Condition(phase="ready", status="a\nb"), reporter, manager) == ["READY=1", "STATUS=a b"]
    assert _become(service, Condition(phase="ready", status="a\nb"), reporter, manager) == []
    assert _become(service, Condition(phase="ready", status="c"), reporter, manager) == ["STATUS=c"]


@pytest.mark.parametrize("phase", ["starting", "stopping"])
def test_time_is_asked_for_with_every_progress(manager: _Manager, service: _Service, phase: str) -> None:
    reporter = _reporter(manager, service)

    def at(progress: object) -> list[str]:
        condition = Condition(phase=phase, progress=progress, patience_s=2.5)  # type: ignore[arg-type]
        return _become(service, condition, reporter, manager)

    at(0)
    assert at(1) == ["EXTEND_TIMEOUT_USEC=2500000"]
    assert at(1) == []
    assert at(2) == ["EXTEND_TIMEOUT_USEC=2500000"]


def test_no_time_is_asked_for_while_it_serves(manager: _Manager, service: _Service) -> None:
    reporter = _reporter(manager, service)
    _become(service, Condition(phase="ready", progress=1), reporter, manager)
    assert _become(service, Condition(phase="ready", progress=2), reporter, manager) == []


def test_who_is_stuck_does_not_feed_the_watchdog_and_gets_no_more_time(manager: _Manager, service: _Service) -> None:
    reporter = _reporter(manager, service, watchdog_s=2)
    assert _become(service, Condition(phase="ready"), reporter, manager) == ["READY=1", "WATCHDOG=1"]
    assert _become(service, Condition(phase="ready"), reporter, manager) == ["WATCHDOG=1"]
    stuck = Condition(phase="stopping", progress=1, is_alive=False)
    assert _become(service, stuck, reporter, manager) == ["STOPPING=1"]
    assert _become(service, Condition(phase="stopping", progress=2, is_alive=False), reporter, manager) == []


# -- the whole -------------------------------------------------------------------------------------------------------


class _Steps:
    """A clock whose sleeps are counted; the last one does not end."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.is_enough = asyncio.Event()

    def now(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return sum(self.slept)

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        if len(self.slept) > 3:
            self.is_enough.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)


@pytest.mark.parametrize(("watchdog_s", "pause_s"), [(0.0, 1.0), (30.0, 1.0), (2.0, 0.5)])
async def test_a_service_is_looked_at_often_enough_for_the_watchdog(
    manager: _Manager, service: _Service, watchdog_s: float, pause_s: float
) -> None:
    service.condition = Condition(phase="ready")
    clock = _Steps()
    notifier = Notifier(manager.address, watchdog_s=watchdog_s)
    async with reporting_service(service.read, notifier=notifier, clock=clock):
        await clock.is_enough.wait()
    assert clock.slept[0] == pause_s
    assert manager.heard().count("READY=1") == 1


async def test_without_a_manager_the_service_is_not_even_looked_at() -> None:
    def read() -> Condition:
        raise AssertionError

    async with reporting_service(read, notifier=Notifier()):
        pass
