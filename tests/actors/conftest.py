"""Fixtures of the actor tests: logs as a list, time in the test's hands, and no task left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any

import pytest
import structlog

from parrot_mq.bus import BusConfig, MemoryBus, MemoryServer, open_bus
from parrot_mq.types import fresh_id
from tests.actors.helpers import ManualClock, keep_logs
from tests.actors.processes import OpenBus


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """What was logged at info and above, as events."""
    events: list[MutableMapping[str, Any]] = []
    keep_logs(events, level=logging.INFO)
    yield events
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """Every task has an owner that awaits it: nothing runs when a test has ended."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"tasks left: {left}"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "nats"])
def open_a_bus(request: pytest.FixtureRequest) -> OpenBus:
    """Opens connections to one world, in memory or on the real server."""
    if request.param == "memory":
        server = MemoryServer()
        server.ensure_streams()
        return lambda: MemoryBus(server)
    config = BusConfig(servers=(request.getfixturevalue("nats_url"),))
    return lambda: open_bus(config)


@pytest.fixture
def node() -> str:
    """A name that no other test on the same server has."""
    return fresh_id("node")
