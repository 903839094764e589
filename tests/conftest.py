"""What tests of every folder may use: a real nats-server, a connection to it, and the bus in memory.

Each test that uses `nats_url` or `nats_bus` shares one server with all others of the session: use names of your own
(`fresh_id`) for sessions and tenants, and do not count what is in a stream.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from parrot_mq.bus import Bus, BusConfig, MemoryBus, MemoryServer, NatsServer, open_bus
from parrot_mq.testing import running_nats_server


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
