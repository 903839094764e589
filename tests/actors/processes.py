"""Two processes in one: systems with a connection each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from parrot_mq.actors import ActorRef, ActorSystem, RemoteRef, Supervision
from parrot_mq.bus import Bus
from tests.actors.protocol import Parrot, Request, Said

OpenBus = Callable[[], AbstractAsyncContextManager[Bus]]


@asynccontextmanager
async def two_systems(open_a_bus: OpenBus, node: str) -> AsyncIterator[tuple[ActorSystem, ActorSystem]]:
    """Systems of two processes, `node` and `node`-b, each with a connection of its own."""
    supervision = Supervision(backoff_s=0)
    async with (
        open_a_bus() as bus,
        open_a_bus() as other_bus,
        ActorSystem(node, bus=bus, supervision=supervision) as system,
        ActorSystem(f"{node}-b", bus=other_bus) as other,
    ):
        yield system, other


async def spawn_parrot(system: ActorSystem, parrot: Parrot | None = None, **options: Any) -> ActorRef:
    return await system.spawn(lambda: parrot or Parrot(), name="parrot", accepts=Request, **options)


def remote_parrot(system: ActorSystem, node: str) -> RemoteRef:
    return system.remote(f"{node}/parrot", answers=Said)
