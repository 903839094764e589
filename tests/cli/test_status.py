"""`parrot-mq status`: how the service stands, on one page."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from parrot_workers.testing import scripted_worker
from rich.console import Console

from parrot_mq.actors import RemoteRef
from parrot_mq.bus import BusConfig, NatsServer, open_bus
from parrot_mq.cli.status_tables import Overview, draw_overview
from parrot_mq.coordinator import CoordinatorConfig, open_coordinator
from parrot_mq.messages import (
    REGISTRY_ADDRESS,
    AutoscalerStatus,
    EngineReport,
    FunctionStatus,
    LoadProgress,
    ModelDemand,
    ScalingDecision,
    ServiceReport,
    SlotStatus,
    TenantDemand,
    Work,
    WorkerStatus,
)

PARROT_MQ = (sys.executable, "-m", "parrot_mq")
NOW = 1_763_800_000.0

READY = WorkerStatus(
    worker="host-a-slot-0",
    model="small",
    state="ready",
    num_slots=8,
    running=["a.b.c"],
    engine=EngineReport(num_output_tokens=5_000),
)
LOADING = WorkerStatus(
    worker="elsewhere",
    model="small",
    state="loading",
    num_slots=8,
    loading=LoadProgress(stage="weights", fraction=0.4),
)
DEMAND = ModelDemand(
    model="small",
    latency_ready=Work(num_generations=1_200, num_prefill_tokens=30_000, num_output_tokens=10_000),
    latency_running=Work(num_generations=1, num_output_tokens=60),
    throughput_ready=Work(num_generations=7),
    oldest_wait_s=14.2,
    predicted_wait_s=33.0,
    tenants=[TenantDemand(tenant="acme", num_ready=1_207), TenantDemand(tenant="b", num_running=1)],
)
DECISION = ScalingDecision(
    at=NOW,
    model="small",
    kind="up",
    num_workers=1,
    target=2,
    wanted=4,
    reason="4 wanted, 1 there",
    actions=["start parrot-worker@1.service"],
)
AUTOSCALER = AutoscalerStatus(
    autoscaler="host-a",
    models=["small"],
    slots=[
        SlotStatus(
            slot=0,
            unit="parrot-worker@0.service",
            model="small",
            state="running",
            owner="autoscaler",
            worker="host-a-slot-0",
            since=NOW - 600,
            status="1/8 running",
        ),
        SlotStatus(
            slot=1,
            unit="parrot-worker@1.service",
            model="small",
            state="failed",
            held_until=NOW + 90,
            reason="it ended with exit-code",
        ),
    ],
    decisions=[DECISION],
)
REPORT = ServiceReport(
    models=["small"],
    workers=[LOADING, READY],
    num_unfinished=1_208,
    coordinator="host-a:1",
    demand=[DEMAND],
    autoscalers=[AUTOSCALER],
)


def _draw(now: Overview, before: Overview | None = None) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(draw_overview(now, before))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _row(text: str, begin: str) -> list[str]:
    """The cells of the row that begins so; a word is a cell."""
    return next(line.split() for line in text.splitlines() if line.startswith(begin))


# -- the page --------------------------------------------------------------------------------------------------------


def test_the_headline_says_what_matters_most() -> None:
    assert _draw(Overview(at=NOW, report=REPORT)).splitlines()[0] == (
        "1 of 2 workers ready, 1,208 tasks unfinished, led by host-a:1, scaled by host-a"
    )


def test_a_model_has_what_waits_and_runs_by_class() -> None:
    row = _row(_draw(Overview(at=NOW, report=REPORT)), "small")
    assert row == ["small", "1", "1,200", "1", "7", "0", "40,060", "14", "s", "33", "s"]


def test_a_native_function_has_what_waits_runs_and_was_done() -> None:
    functions = [
        FunctionStatus(function="search", num_waiting=1_200, num_running=64, num_returned=9, num_failed=2, mean_s=0.4),
        FunctionStatus(function="idle"),
    ]
    text = _draw(Overview(at=NOW, report=ServiceReport(functions=functions)))
    assert _row(text, "search") == ["search", "1,200", "64", "9", "2", "0", "0.4", "s"]
    assert _row(text, "idle") == ["idle", "0", "0", "0", "0", "0"]
    assert "native function" not in _draw(Overview(at=NOW, report=REPORT))


def test_without_a_worker_a_new_one_waits_until_one_starts() -> None:
    report = ServiceReport(demand=[ModelDemand(model="small")])
    assert _draw(Overview(at=NOW, report=report)).splitlines()[3].endswith("until one starts")


def test_a_slot_says_who_runs_there_since_when_and_who_started_it() -> None:
    text = _draw(Overview(at=NOW, report=REPORT))
    assert _row(text, "parrot-worker@0") == (
        [
            "parrot-worker@0",
            "host-a-slot-0",
            "small",
            "running",
            "10",
            "min",
            "autoscaler",
            "1/8",
            "5,000",
            "1/8",
            "running",
        ]
    )
    held = "parrot-worker@1 small failed, left alone for 90 s: it ended with exit-code"
    assert _row(text, "parrot-worker@1") == held.split()


def test_a_worker_without_a_slot_is_in_the_list_too() -> None:
    assert "elsewhere      small  loading: weights 40%" in _draw(Overview(at=NOW, report=REPORT))


def test_while_it_is_watched_there_are_rates() -> None:
    engine = EngineReport(num_output_tokens=5_600)
    later = ServiceReport(
        workers=[WorkerStatus(worker="host-a-slot-0", model="small", state="ready", num_slots=8, engine=engine)]
    )
    text = _draw(Overview(at=NOW + 2, report=later), Overview(at=NOW, report=REPORT))
    assert "300/s" in text


def test_tenants_are_listed_if_there_are_several() -> None:
    text = _draw(Overview(at=NOW, report=REPORT))
    assert _row(text, "acme") == ["acme", "small", "1,207", "0"]
    alone = ServiceReport(demand=[ModelDemand(model="small", tenants=[TenantDemand(tenant="acme", num_ready=1)])])
    assert "acme" not in _draw(Overview(at=NOW, report=alone))


def test_the_last_decisions_are_there_with_their_reasons() -> None:
    text = _draw(Overview(at=NOW, report=REPORT))
    line = next(line for line in text.splitlines() if "→" in line)
    assert line.split()[1:] == ["small", "1", "→", "2", "4", "wanted,", "1", "there", "start", "parrot-worker@1"]


def test_units_are_shown_even_while_no_coordinator_answers() -> None:
    unit = SlotStatus(slot=0, unit="parrot-worker@0.service", model="", state="running", owner="others", since=NOW)
    text = _draw(Overview(at=NOW + 5, units=[unit], problem="no coordinator answers; start one"))
    assert text.splitlines()[1] == "no coordinator answers; start one"
    assert _row(text, "parrot-worker@0") == ["parrot-worker@0", "running", "5.0", "s", "others"]


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A service with a scripted worker, and an autoscaler that has been heard of."""
    async with NatsServer() as server:
        config = BusConfig(servers=(server.url,))
        async with (
            open_bus(config) as coordinator_bus,
            open_bus(config) as worker_bus,
            open_coordinator(coordinator_bus, CoordinatorConfig(settle_s=0)),
            scripted_worker(worker_bus, lambda request: request.text, name="w0", num_slots=4),
        ):
            await RemoteRef(worker_bus, REGISTRY_ADDRESS).tell(AUTOSCALER)
            yield server.url


async def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(subprocess.run, [*PARROT_MQ, *arguments], capture_output=True, text=True, timeout=60)


async def test_the_command_prints_the_page_for_people_and_for_programs(url: str) -> None:
    shown = await _run("status", "--servers", url)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("1 of 1 workers ready, 0 tasks unfinished")
    assert _row(shown.stdout, "scripted")[:2] == ["scripted", "1"]
    known = json.loads((await _run("status", "--servers", url, "--json")).stdout)
    assert known["report"]["workers"][0]["worker"] == "w0"
    assert known["report"]["autoscalers"][0]["slots"][0]["unit"] == "parrot-worker@0.service"


async def test_without_a_server_the_command_says_so_and_fails() -> None:
    shown = await _run("status", "--servers", "nats://127.0.0.1:1")
    assert shown.returncode == 1
    assert "cannot connect to NATS" in shown.stdout


async def test_without_a_coordinator_the_command_says_what_to_start(nats_url: str) -> None:
    shown = await _run("status", "--servers", nats_url)
    assert shown.returncode == 1
    assert "parrot-mq coordinator" in shown.stdout
