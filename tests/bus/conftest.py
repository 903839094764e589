"""Memory, memory behind slow links, and NATS, behind one fixture: the rules of the bus hold in all of them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from parrot_mq.bus import Bus, BusConfig, Link, MemoryBus, MemoryServer, connect
from parrot_mq.messages.subjects import STREAM_TASKS
from parrot_mq.testing.nats_server import running_nats_server
from parrot_mq.types import fresh_id
from tests.bus.worlds import World


@pytest.fixture(scope="module")
def own_nats_url() -> Iterator[str]:
    """A server whose streams nobody else uses: the rules count what is in them."""
    with running_nats_server() as server:
        yield server.url


@pytest.fixture(params=["memory", "slow memory", "nats"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """The same rules on all buses."""
    async with AsyncExitStack() as stack:
        if "memory" in request.param:
            server, rng = MemoryServer(), random.Random(0)
            server.ensure_streams()

            async def connect_one() -> Bus:
                link = Link((lambda: rng.uniform(0, 0.002)) if "slow" in request.param else 0.0)
                return await stack.enter_async_context(MemoryBus(server, link=link))
        else:
            config = BusConfig(servers=(request.getfixturevalue("own_nats_url"),), publish_timeout_s=5)

            async def connect_one() -> Bus:
                return await stack.enter_async_context(await connect(config))

            await (await connect_one()).purge(STREAM_TASKS, ">")

        yield World(connect_one, fresh_id("tenant"))


@pytest.fixture
async def bus(world: World) -> Bus:
    """One connection."""
    return await world.connect()


@pytest.fixture
async def other(world: World) -> Bus:
    """A second connection to the same server."""
    return await world.connect()
