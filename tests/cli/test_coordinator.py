"""`parrot-mq coordinator` and what others commands say of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from parrot_mq.bus import BusConfig, NatsServer, open_bus
from parrot_mq.cli.coordinator import MAX_TAKE_OVER_S, CoordinatorCondition
from parrot_mq.cli.doctor import Check, diagnose
from parrot_mq.cli.workers import Reading, make_table
from parrot_mq.coordinator import LeaderConfig, open_candidate
from parrot_mq.coordinator.statistics import CoordinatorStatistics, LeaderStatistics
from parrot_mq.messages import LEASE_SUBJECT, CoordinatorLease, ServiceReport, encode_json
from parrot_mq.observability import Condition


@pytest.fixture
async def config() -> AsyncIterator[BusConfig]:
    async with NatsServer() as server:
        yield BusConfig(servers=(server.url,))


async def _coordinator_check(config: BusConfig) -> Check:
    (check,) = [check async for check in diagnose(config) if check.what == "coordinator"]
    return check


async def test_doctor_tells_who_leads_or_why_nobody_does(config: BusConfig) -> None:
    check = await _coordinator_check(config)
    assert (check.is_ok, check.found) == (False, "nobody leads, and nobody has led before")
    async with open_candidate(lambda: open_bus(config), None, LeaderConfig(name="here")) as candidate:
        await candidate.wait_leading()
        check = await _coordinator_check(config)
        assert (check.is_ok, check.found) == (True, f"{candidate.name} leads")
    check = await _coordinator_check(config)
    assert not check.is_ok
    assert check.found.startswith("nobody leads; the last one has stopped")
    assert "parrot-mq coordinator" in check.remedy


@pytest.mark.parametrize(("lease_s", "words"), [(3600.0, "does not answer"), (0.0, "was not heard of for")])
async def test_doctor_tells_of_a_leader_that_is_silent(config: BusConfig, lease_s: float, words: str) -> None:
    async with open_bus(config) as bus:
        await bus.ensure_streams()
        record = CoordinatorLease(holder="there:1", lease_s=lease_s, term=1, since=0)
        await bus.replace(LEASE_SUBJECT, encode_json(record), expected_sequence=0, timeout_s=5)
    check = await _coordinator_check(config)
    assert not check.is_ok
    assert "there:1" in check.found
    assert words in check.found


def test_the_table_of_workers_names_the_leader() -> None:
    assert str(make_table(Reading(ServiceReport(coordinator="there:1"), 0.0)).title).endswith("led by there:1")
    assert "led by" not in str(make_table(Reading(ServiceReport(), 0.0)).title)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tenants.acme]\nweight = 0\n", "weight"),
        ("[tenants.acme]\nshare = 1\n", "share"),
        ("[[[", "cannot read the tenants"),
        (None, "cannot read the tenants"),
    ],
)
async def test_a_bad_file_of_tenants_is_refused_with_its_place(
    config: BusConfig, tmp_path: Path, text: str | None, words: str
) -> None:
    file = tmp_path / "tenants.toml"
    if text is not None:
        file.write_text(text)
    result = await asyncio.to_thread(_coordinator, config, "--tenants", str(file))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert words in result.stderr


async def test_a_lease_that_is_too_short_is_refused(config: BusConfig) -> None:
    result = await asyncio.to_thread(_coordinator, config, "--leader-lease", "0.1")
    assert result.returncode == 2
    assert "--leader-lease" in result.stderr


def _coordinator(config: BusConfig, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "parrot_mq", "coordinator", "--servers", config.servers[0], *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


# -- for the service manager -----------------------------------------------------------------------------------------


class _Process:
    """A coordinator as the service manager is told of it, and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.lead = LeaderStatistics(leads=False, holder="", term=0, num_terms=0)
        statistics = CoordinatorStatistics(num_unfinished=12, dispatchers={}, workers=())
        self.condition = CoordinatorCondition("me", lambda: self.lead, lambda: statistics, lambda: self.now)

    def become(self, holder: str, *, leads: bool = False) -> Condition:
        self.lead = LeaderStatistics(leads=leads, holder=holder, term=3, num_terms=1)
        return self.condition.read()


def test_a_coordinator_is_ready_when_it_knows_who_leads() -> None:
    process = _Process()
    assert process.condition.read() == Condition(phase="starting", status="waits for the lead")
    assert process.become("other") == Condition(phase="ready", status="stands by for other")
    leads = Condition(phase="ready", status="leads, term 3: 12 unfinished tasks, 0 workers")
    assert process.become("me", leads=True) == leads
    process.condition.stop()
    assert process.condition.read().phase == "stopping"


def test_a_coordinator_that_takes_over_is_not_ready_yet() -> None:
    assert _Process().become("me") == Condition(phase="starting", status="takes the lead, term 3")


def test_a_coordinator_that_has_the_lease_and_never_leads_is_stuck() -> None:
    process = _Process()
    process.become("me", leads=True)
    process.now += MAX_TAKE_OVER_S
    assert process.become("me").is_alive
    process.now += 1
    assert not process.become("me").is_alive
    assert process.become("me", leads=True).is_alive


def test_a_coordinator_without_a_server_is_not_stuck() -> None:
    process = _Process()
    process.become("other")
    process.now += 10_000
    assert process.become("other").is_alive
