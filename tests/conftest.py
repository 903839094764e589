"""What tests of every folder may use: a real nats-server, a connection to it, and the bus in memory.

Each test that uses `nats_url` or `nats_bus` shares one server with all others of the session: use names of your own
(`fresh_id`) for sessions and tenants, and do not count what is in a stream. Several sessions run at
the same time (see `parallel`): ports are free ones, files lie in `tmp_path`, and nothing fails because it takes long.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of torch, here and in what tests start: there are few processors

import pytest

from parrot_mq.bus import Bus, BusConfig, MemoryBus, MemoryServer, NatsServer, open_bus
from parrot_mq.testing import running_nats_server

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import Scheduling


@pytest.hookimpl(optionalhook=True)  # it is there in parallel runs only
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Which process runs what."""
    from tests.parallel import FileScheduling

    return FileScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests of a parallel run."""
    if hasattr(config, "workerinput"):
        from tests.parallel import put_long_ones_first

        put_long_ones_first(items)


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """The server of this session, with the streams, on a free port."""
    with running_nats_server() as server:
        yield server


@pytest.fixture(scope="session")
def nats_url(nats_server: NatsServer) -> str:
    """Address of the server of this session."""
    return nats_server.url


@pytest.fixture
async def nats_bus(nats_url: str) -> AsyncIterator[Bus]:
    """A connection to the server of this session."""
    async with open_bus(BusConfig(servers=(nats_url,))) as bus:
        yield bus


@pytest.fixture
def memory_server() -> MemoryServer:
    """A fresh world in memory, with the streams."""
    server = MemoryServer()
    server.ensure_streams()
    return server


@pytest.fixture
async def memory_bus(memory_server: MemoryServer) -> AsyncIterator[Bus]:
    """A connection to the world in memory."""
    async with MemoryBus(memory_server) as bus:
        yield bus
