"""What tests of every folder may use: a real nats-server, a connection to it, and the bus in memory.

Each test that uses `nats_url` or `nats_bus` shares one server with all others of the session: use names of your own
(`fresh_id`) for sessions and tenants, and do not count what is in a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from parrot_mq.bus import Bus, BusConfig, MemoryBus, MemoryServer, NatsServer, open_bus


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """The server of this session, with JetStream, on a free port."""
    server = NatsServer()
    asyncio.run(_start(server))
    yield server
    asyncio.run(server.stop())


async def _start(server: NatsServer) -> None:
    await server.start()
    async with open_bus(BusConfig(servers=(server.url,))) as bus:
        await bus.ensure_streams()


@pytest.fixture(scope="session")
def nats_url(nats_server: NatsServer) -> str:
    """Address of the server of this session; its streams exist."""
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
