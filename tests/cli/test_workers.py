"""`parrot-mq workers`, and how other commands speak of workers."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from parrot_workers.testing import scripted_worker
from rich.console import Console

from parrot_mq.bus import BusConfig, NatsServer, open_bus
from parrot_mq.cli.stack import StackOptions, _is_ready
from parrot_mq.cli.workers import Reading, describe_state, describe_worker, make_table
from parrot_mq.coordinator import CoordinatorConfig, open_coordinator
from parrot_mq.messages import EngineReport, LoadProgress, ServiceReport, WorkerStatus

PARROT_MQ = (sys.executable, "-m", "parrot_mq")

LOADING = WorkerStatus(
    worker="w0",
    model="small",
    state="loading",
    num_slots=8,
    loading=LoadProgress(stage="reading weights", fraction=0.4),
)
BUSY = WorkerStatus(
    worker="w1",
    model="small",
    state="ready",
    num_slots=8,
    running=["a.b.c", "a.b.d"],
    engine=EngineReport(
        num_prompt_tokens=1_000,
        num_shared_tokens=750,
        num_output_tokens=5_000,
        num_steps=100,
        num_batched=250,
        step_s=2.0,
        page_size=16,
        num_pages=200,
        num_free_pages=100,
        num_cached_pages=60,
        num_pinned_pages=20,
    ),
)
LATER = EngineReport(
    num_prompt_tokens=2_000,
    num_shared_tokens=750,
    num_output_tokens=5_600,
    num_steps=110,
    num_batched=290,
    step_s=2.1,
)


def _rows(reading: Reading, before: Reading | None = None) -> list[list[str]]:
    """The cells of the table, a list for each worker; below the title and the header."""
    console = Console(file=io.StringIO(), width=200)
    console.print(make_table(reading, before))
    assert isinstance(console.file, io.StringIO)
    return [line.split() for line in console.file.getvalue().splitlines()[2:]]


def _reading(*workers: WorkerStatus, at: float = 0.0) -> Reading:
    return Reading(ServiceReport(models=["small"], workers=list(workers), num_unfinished=12_345), at)


def _with_engine(engine: EngineReport) -> WorkerStatus:
    return WorkerStatus(worker="w1", model="small", state="ready", num_slots=8, engine=engine)


# -- in words --------------------------------------------------------------------------------------------------------


def test_a_worker_that_loads_says_how_far_it_is() -> None:
    assert describe_state(LOADING) == "loading: reading weights 40%"
    assert describe_worker(LOADING) == "small, loading: reading weights 40%, 0 of 8 slots in use"
    assert describe_state(BUSY) == "ready"


def test_a_worker_that_works_says_what_its_engine_did() -> None:
    assert describe_worker(BUSY) == (
        "small, ready, 2 of 8 slots in use, 5,000 tokens generated, cache 20% used and 30% kept"
    )


def test_starting_a_service_tells_what_a_worker_is_doing() -> None:
    said: list[str] = []
    assert not _is_ready(_reading(LOADING, BUSY).report, StackOptions(num_workers=2), said.append)
    assert said == ["loading the model (1 of 2 workers ready): reading weights 40%"]
    assert _is_ready(_reading(BUSY).report, StackOptions(), said.append)
    assert said[1] == "loading the model (1 of 1 workers ready)"


# -- the table -------------------------------------------------------------------------------------------------------


def test_the_table_has_means_and_shares_since_the_start() -> None:
    loading, busy = _rows(_reading(BUSY, LOADING))
    assert loading == ["w0", "small", "loading:", "reading", "weights", "40%", "0/8"]
    assert busy == ["w1", "small", "ready", "2/8", "2.5", "20.0", "ms", "5,000", "75%", "20%", "30%", "10%"]


def test_while_it_is_watched_the_table_has_rates_of_the_interval() -> None:
    (row,) = _rows(_reading(_with_engine(LATER), at=12.0), _reading(BUSY, at=10.0))
    assert row == ["w1", "small", "ready", "0/8", "4.0", "10.0", "ms", "300/s", "0%"]


def test_an_engine_that_was_loaded_anew_counts_from_its_start() -> None:
    anew = EngineReport(num_output_tokens=7, num_steps=1, num_batched=1, step_s=0.5)
    (row,) = _rows(_reading(_with_engine(anew), at=12.0), _reading(BUSY, at=10.0))
    assert row == ["w1", "small", "ready", "0/8", "1.0", "500.0", "ms", "7"]


def test_an_idle_interval_and_an_engine_without_pages_are_no_mistakes() -> None:
    (row,) = _rows(_reading(BUSY, at=12.0), _reading(BUSY, at=10.0))
    assert row == ["w1", "small", "ready", "2/8", "0/s", "20%", "30%", "10%"]
    (row,) = _rows(_reading(_with_engine(EngineReport())))
    assert row == ["w1", "small", "ready", "0/8", "0"]


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A service with a scripted worker."""
    async with NatsServer() as server:
        config = BusConfig(servers=(server.url,))
        async with (
            open_bus(config) as coordinator_bus,
            open_bus(config) as worker_bus,
            open_coordinator(coordinator_bus, CoordinatorConfig(settle_s=0)),
            scripted_worker(worker_bus, lambda request: request.text, name="w0", num_slots=4),
        ):
            yield server.url


async def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(subprocess.run, [*PARROT_MQ, *arguments], capture_output=True, text=True, timeout=60)


async def test_the_command_lists_the_workers_for_people_and_for_programs(url: str) -> None:
    shown = await _run("workers", "--servers", url)
    assert shown.returncode == 0, shown.stderr
    assert "1 of 1 workers ready, 0 tasks unfinished" in shown.stdout
    assert shown.stdout.splitlines()[2].split()[:4] == ["w0", "scripted", "ready", "0/4"]
    report = json.loads((await _run("workers", "--servers", url, "--json")).stdout)
    assert report["workers"][0]["engine"]["num_pages"] > 0


def _watch(url: str) -> int:
    """Look until the second table is there, then press Ctrl-C."""
    command = [*PARROT_MQ, "workers", "--servers", url, "--watch", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        try:
            assert watch.stdout is not None
            rows = (line for line in watch.stdout if line.startswith("w0 "))
            assert next(rows).split()[4] == "0"
            assert next(rows).split()[4] == "0/s"
            watch.send_signal(signal.SIGINT)
            return watch.wait(20)
        finally:
            watch.kill()


async def test_the_command_watches_until_ctrl_c(url: str) -> None:
    assert await asyncio.to_thread(_watch, url) == 0


async def test_without_a_coordinator_the_command_says_what_to_start(nats_url: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PARROT_MQ_")}
    result = await asyncio.to_thread(
        subprocess.run,
        [*PARROT_MQ, "workers", "--servers", nats_url],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert result.returncode == 1
    assert "parrot-mq coordinator" in result.stderr
