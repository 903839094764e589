"""From arrival to handler: one delivery after another, in a task of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from parrot_mq.bus.base import Delivery, Handler
from parrot_mq.bus.tasks import TaskOwner

__all__ = ["Pump"]

_log = structlog.get_logger(__name__)
_LOOK_EVERY = 64
_MAX_TURN = 1024
_MAX_TURN_S = 0.005
"""How long deliveries are handled before others on the loop get their turn, if the handler never waits."""


class Pump:
    """Queues deliveries and hands them to a handler.

    Ordering: as they were put.
    Cancel: `aclose` cancels a handler that runs, unless it is the one that calls.
    """

    def __init__(
        self, handler: Handler, tasks: TaskOwner, *, name: str, on_handled: Callable[[], None] | None = None
    ) -> None:
        self._handler = handler
        self._tasks = tasks
        self._name = name
        self._on_handled = on_handled
        self._queue: deque[Delivery] = deque()
        self._idle: asyncio.Future[None] | None = None
        self._all_handled: asyncio.Future[None] | None = None
        self._is_closed = False
        self._task = tasks.start(self._run(), name=name)

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, delivery: Delivery) -> None:
        """Queue one delivery; never waits."""
        self._queue.append(delivery)
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def wait_idle(self) -> None:
        """Wait until all that was put is handled, or it is closed."""
        if self._is_closed or (self._idle is not None and not self._idle.done()):
            return
        if self._all_handled is None or self._all_handled.done():
            self._all_handled = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._all_handled)

    async def aclose(self) -> None:
        """Drop what is queued and end."""
        self._is_closed = True
        self._queue.clear()
        await self._tasks.end(self._task)
        self._tell_idle()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        num_handled, turn_began = 0, loop.time()
        while not self._is_closed:
            if not self._queue:
                self._idle = loop.create_future()
                self._tell_idle()
                await self._idle
                num_handled, turn_began = 0, loop.time()
                continue
            await self._handle(self._queue.popleft())
            num_handled += 1
            if num_handled % _LOOK_EVERY:
                continue
            if num_handled >= _MAX_TURN or loop.time() - turn_began > _MAX_TURN_S:
                await asyncio.sleep(0)
                num_handled, turn_began = 0, loop.time()

    def _tell_idle(self) -> None:
        if self._all_handled is not None and not self._all_handled.done():
            self._all_handled.set_result(None)

    async def _handle(self, delivery: Delivery) -> None:
        try:
            await self._handler(delivery)
        except Exception:
            _log.exception("handler_failed", subscription=self._name, subject=delivery.subject)
        if self._on_handled is not None:
            self._on_handled()
