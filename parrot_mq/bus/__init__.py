"""The bus: core messages, facts that are written once, blobs; over NATS, or in memory for simulation and tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from parrot_mq.bus.base import NO_HEADERS, Bus, Delivery, Handler, Headers, IsLast, Stored, Subscription
from parrot_mq.bus.config import BusConfig
from parrot_mq.bus.durable import DurableConsumer, Settlement
from parrot_mq.bus.fenced import FencedBus
from parrot_mq.bus.memory import MemoryBus, MemoryServer
from parrot_mq.bus.memory_link import Link
from parrot_mq.bus.nats import NatsBus
from parrot_mq.bus.replays import answer_replay, request_replay
from parrot_mq.bus.server import NatsServer
from parrot_mq.bus.storing import store_identified
from parrot_mq.bus.values import fail_variable, fetch_text, get_usage, get_values, pack_text, set_variable

__all__ = [
    "NO_HEADERS",
    "Bus",
    "BusConfig",
    "Delivery",
    "DurableConsumer",
    "FencedBus",
    "Handler",
    "Headers",
    "IsLast",
    "Link",
    "MemoryBus",
    "MemoryServer",
    "NatsBus",
    "NatsServer",
    "Settlement",
    "Stored",
    "Subscription",
    "answer_replay",
    "connect",
    "fail_variable",
    "fetch_text",
    "get_usage",
    "get_values",
    "open_bus",
    "pack_text",
    "request_replay",
    "set_variable",
    "store_identified",
]


async def connect(config: BusConfig | None = None) -> NatsBus:
    """Connect to NATS; the caller closes the bus. Without `config` the environment decides (`PARROT_MQ_…`).

    Raises:
        ConnectFailed: No server took us within `connect_timeout_s`; the sentence names servers and reason.
        ConfigurationError: A setting cannot be used.
    """
    return await NatsBus.open(config or BusConfig.from_env())


@asynccontextmanager
async def open_bus(config: BusConfig | None = None) -> AsyncIterator[NatsBus]:
    """Connect, and close at the end of the block; raises as `connect`."""
    async with await connect(config) as bus:
        yield bus
