"""Helpers of the bus tests: a world to connect to, and a handler that keeps what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from parrot_mq.bus import Bus, Delivery

__all__ = ["WAIT_S", "Mailbox", "World", "eventually"]

WAIT_S = 10.0
"""Longest wait for something that has to happen."""


@dataclass(slots=True)
class World:
    """A server, and how to connect to it.

    Attributes:
        connect: Makes one more connection; it is closed at the end of the test.
        tenant: A tenant that only this test uses.
    """

    connect: Callable[[], Awaitable[Bus]]
    tenant: str


class Mailbox:
    """A handler that keeps what it gets."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self._arrived = asyncio.Event()

    async def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self._arrived.set()

    @property
    def payloads(self) -> list[bytes]:
        return [delivery.payload for delivery in self.deliveries]

    async def wait_for(self, num_deliveries: int, *, timeout_s: float = WAIT_S) -> list[Delivery]:
        """Wait until that many have arrived."""
        async with asyncio.timeout(timeout_s):
            while len(self.deliveries) < num_deliveries:
                self._arrived.clear()
                await self._arrived.wait()
        return self.deliveries


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again, each time one round trip to the server later, until `condition` holds."""
    async with asyncio.timeout(WAIT_S):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0)
