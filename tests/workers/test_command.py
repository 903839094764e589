"""The command of a worker: it shows how it loads, and stops at any moment."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from parrot_workers import command
from parrot_workers.config import WorkerConfig
from parrot_workers.engine import Engine, ScriptedEngine
from parrot_workers.loading_bar import loading_bar
from rich.console import Console

from parrot_mq.bus import BusConfig
from parrot_mq.errors import CheckpointError
from parrot_mq.messages import LoadProgress
from parrot_mq.types import WorkerId, fresh_id

Load = Callable[[WorkerConfig, Callable[[str, float], None]], Engine]


def _scripted() -> Engine:
    return ScriptedEngine(lambda request: request.text)


# -- the bar ---------------------------------------------------------------------------------------------------------


def test_a_terminal_gets_a_bar_with_the_stage() -> None:
    terminal = io.StringIO()
    with loading_bar(Console(file=terminal, force_terminal=True, width=100)) as show:
        show(LoadProgress(stage="reading [b]weights[/b]", fraction=0.4))
        time.sleep(0.15)  # it is drawn ten times in a second
        show(LoadProgress(stage="warming up", fraction=1.0))
    assert "reading [b]weights[/b]" in terminal.getvalue()
    assert "40%" in terminal.getvalue()
    assert "warming up" in terminal.getvalue()
    before = terminal.getvalue()
    show(LoadProgress(stage="loading again", fraction=0.1))
    assert terminal.getvalue() == before, "the bar is gone"


def test_anything_else_gets_none() -> None:
    pipe = io.StringIO()
    with loading_bar(Console(file=pipe)) as show:
        show(LoadProgress(stage="reading weights", fraction=0.4))
    assert pipe.getvalue() == ""


# -- starting and stopping -------------------------------------------------------------------------------------------


@pytest.fixture
def signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def _serve(nats_url: str, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "create_engine", load)
    config = WorkerConfig(model_path=Path("scripted"), worker_id=WorkerId(fresh_id("worker")), drain_s=1)
    await command.serve(BusConfig(servers=(nats_url,)), config)


async def test_a_worker_that_loads_stops_at_the_next_report(
    nats_url: str, monkeypatch: pytest.MonkeyPatch, signals_as_before: None
) -> None:
    is_loading = threading.Event()

    def load(_: WorkerConfig, report: Callable[[str, float], None]) -> Engine:
        is_loading.set()
        while True:
            report("reading weights", 0.5)
            time.sleep(0.001)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(_serve(nats_url, load, monkeypatch))
        await asyncio.to_thread(is_loading.wait)
        os.kill(os.getpid(), signal.SIGTERM)


async def test_a_worker_that_is_ready_drains(
    nats_url: str, monkeypatch: pytest.MonkeyPatch, signals_as_before: None
) -> None:
    is_loaded = threading.Event()

    def load(_: WorkerConfig, report: Callable[[str, float], None]) -> Engine:
        is_loaded.set()
        return _scripted()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(_serve(nats_url, load, monkeypatch))
        await asyncio.to_thread(is_loaded.wait)
        os.kill(os.getpid(), signal.SIGTERM)


async def test_a_model_that_cannot_be_loaded_ends_the_worker_with_its_error(
    nats_url: str, monkeypatch: pytest.MonkeyPatch, signals_as_before: None
) -> None:
    def load(_: WorkerConfig, report: Callable[[str, float], None]) -> Engine:
        raise CheckpointError(path="/x", problem="it is empty", remedy="fill it")

    with pytest.raises(CheckpointError, match="it is empty"):
        await _serve(nats_url, load, monkeypatch)
