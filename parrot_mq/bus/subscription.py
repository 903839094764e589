"""How every subscription ends: once, for whoever closes it or for an error that those who wait get."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable

from parrot_mq.bus.base import Subscription
from parrot_mq.bus.pump import Pump
from parrot_mq.errors import ParrotError

__all__ = ["PumpedSubscription"]


class PumpedSubscription(Subscription):
    """A subscription whose deliveries go through a pump."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @abstractmethod
    async def _finish(self, error: ParrotError | None) -> None:
        """Stop the deliveries, settle the end, close the pump. May be called twice."""

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` when nothing more will be delivered."""
        self._ended.add_done_callback(lambda _: callback())

    async def aclose(self) -> None:
        await self._finish(None)

    async def close_with(self, error: ParrotError) -> None:
        """End with an error for who waits."""
        await self._finish(error)

    async def wait_closed(self) -> None:
        await asyncio.shield(self._ended)

    def _settle(self, error: ParrotError | None) -> None:
        """Say once how a subscription ended."""
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
            self._ended.exception()  # whoever waits gets it; if nobody does, that is no warning
