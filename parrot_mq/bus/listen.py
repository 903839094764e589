"""A core subscription: what is published while it is there."""

from __future__ import annotations

import asyncio

import structlog

from parrot_mq.bus.base import Handler
from parrot_mq.bus.connection import Connection
from parrot_mq.bus.frames import core_delivery
from parrot_mq.bus.interests import Interest
from parrot_mq.bus.pump import Pump
from parrot_mq.bus.subscription import PumpedSubscription
from parrot_mq.bus.tasks import TaskOwner
from parrot_mq.errors import ParrotError, PermissionDenied, RequestTimeout

__all__ = ["CoreSubscription"]

_log = structlog.get_logger(__name__)
MAX_PENDING = 65_536
"""Messages that wait for a slow handler; further ones are dropped, which core messages may be."""


class CoreSubscription(PumpedSubscription):
    """Delivers to a handler until closed; kept across reconnections.

    Delivery: at most once.
    """

    def __init__(self, connection: Connection, tasks: TaskOwner, subject: str, queue: str, handler: Handler) -> None:
        self._connection = connection
        self._tasks = tasks
        self._subject = subject
        super().__init__(Pump(handler, tasks, name=f"subscribe:{subject}"))
        self._interest = Interest(subject, queue, self._on_message, self._on_denied)
        self._num_dropped = 0

    async def start(self) -> None:
        """Subscribe; returns when the server knows."""
        timeout_s = self._connection.config.publish_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._connection.add_interest(self._interest)
        except TimeoutError:
            await self.aclose()
            raise RequestTimeout(subject=self._subject, timeout_s=timeout_s) from None
        except BaseException:
            await self.aclose()
            raise

    async def drain(self) -> None:
        await self._connection.retire_interest(self._interest, self._connection.config.ping_interval_s)
        await self._pump.wait_idle()
        await self.aclose()

    async def _finish(self, error: ParrotError | None) -> None:
        self._connection.remove_interest(self._interest)
        self._settle(error)
        await self._pump.aclose()

    def _on_message(self, subject: bytes, reply: bytes, payload: bytes, block: bytes | None) -> None:
        if len(self._pump) >= MAX_PENDING:
            self._num_dropped += 1
            if self._num_dropped & (self._num_dropped - 1) == 0:  # 1, 2, 4, 8, …
                _log.warning("messages_dropped", subject=self._subject, num_dropped=self._num_dropped)
            return
        self._pump.put(core_delivery(subject, reply, payload, block))

    def _on_denied(self, error: PermissionDenied) -> None:
        self._tasks.start(self._finish(error), name=f"subscribe:{self._subject}:end")
