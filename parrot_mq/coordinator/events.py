"""Task events for people and tools: sent when there is time, dropped rather than waited for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from parrot_mq.bus import Bus
from parrot_mq.clock import Clock
from parrot_mq.errors import ConnectionClosed, ParrotError
from parrot_mq.messages import ErrorInfo, PromptTask, TaskAddress, TaskEvent, encode_json, event_subject
from parrot_mq.messages.wire import EventKind
from parrot_mq.observability import get_logger
from parrot_mq.program import Node

__all__ = ["Events"]

log = get_logger(__name__)


class Events:
    """A bounded outbox of task events. Delivery: at most once; the oldest are dropped when the outbox is full."""

    def __init__(self, bus: Bus, clock: Clock, *, capacity: int = 10_000) -> None:
        self._bus = bus
        self._clock = clock
        self._outbox: deque[tuple[TaskAddress, TaskEvent]] = deque(maxlen=capacity)
        self._has_some = asyncio.Event()

    def submitted(self, address: TaskAddress, record: PromptTask, nodes: Sequence[Node]) -> None:
        """A task was accepted: one event for each output, with what it waits for."""
        for node in nodes:
            self._put(address, "submitted", variable=node.writes, function=record.function, reads=list(node.reads))

    def emit(
        self,
        address: TaskAddress,
        kind: EventKind,
        *,
        variable: str = "",
        worker: str = "",
        batch: str = "",
        error: ErrorInfo | None = None,
    ) -> None:
        """Something happened to an output of a task, or to the whole task when `variable` is empty."""
        self._put(address, kind, variable=variable, worker=worker, batch=batch, error=error)

    def _put(
        self,
        address: TaskAddress,
        kind: EventKind,
        *,
        variable: str,
        function: str = "",
        reads: list[str] | None = None,
        worker: str = "",
        batch: str = "",
        error: ErrorInfo | None = None,
    ) -> None:
        event = TaskEvent(
            kind=kind,
            task=address.task,
            variable=variable,
            at=self._clock.now(),
            function=function,
            reads=reads or [],
            worker=worker,
            batch=batch,
            error=error,
        )
        self._outbox.append((address, event))
        self._has_some.set()

    async def run(self) -> None:
        """Send events until cancelled."""
        while True:
            await self._has_some.wait()
            self._has_some.clear()
            while self._outbox:
                address, event = self._outbox.popleft()
                await self._send(address, event)

    async def _send(self, address: TaskAddress, event: TaskEvent) -> None:
        subject = event_subject(address.tenant, address.session, event.kind)
        try:
            await self._bus.publish(subject, encode_json(event))
        except ConnectionClosed:
            raise
        except ParrotError as error:
            log.warning("event_dropped", subject=subject, error=error.message)
