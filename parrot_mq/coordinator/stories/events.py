"""Task events for people and tools: sent when there is time, dropped rather than waited for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TypedDict, Unpack

import msgspec

from parrot_mq.bus import Bus, Delivery
from parrot_mq.clock import Clock
from parrot_mq.coordinator.sessions.task import Task
from parrot_mq.coordinator.stories.history import History
from parrot_mq.coordinator.stories.traces import Traces
from parrot_mq.errors import ConnectionClosed, ParrotError
from parrot_mq.messages import (
    Decision,
    ErrorInfo,
    EventKind,
    TaskAddress,
    TaskEvent,
    Usage,
    Value,
    VariableAddress,
    WorkerStatus,
    encode_json,
    event_subject,
)
from parrot_mq.observability import get_logger
from parrot_mq.program import Node
from parrot_mq.types import Objective

__all__ = ["EventDetails", "Events"]

log = get_logger(__name__)


class EventDetails(TypedDict, total=False):
    """What an event may say besides what happened to whom; see `TaskEvent`."""

    variable: str
    worker: str
    batch: str
    batch_size: int
    prefix: str
    objective: Objective
    group: str
    decision: Decision
    reason: str
    attempt: int
    num_continued_tokens: int
    error: ErrorInfo


class Events:
    """A bounded outbox of task events, all of which the history learns of.

    Delivery: at most once; the oldest are dropped when the outbox is full.

    Attributes:
        traces: Those of the tasks that the events are about.
    """

    def __init__(self, bus: Bus, clock: Clock, history: History, *, capacity: int = 10_000) -> None:
        self._bus = bus
        self._clock = clock
        self._history = history
        self.traces = Traces()
        self._outbox: deque[tuple[TaskAddress, TaskEvent]] = deque(maxlen=capacity)
        self._has_some = asyncio.Event()

    def arrived(self, address: TaskAddress, delivery: Delivery) -> None:
        """A task is read. That is no event, since it may be refused yet; but its trace goes on from here."""
        self.traces.begin(address, delivery)

    def submitted(self, task: Task, nodes: Sequence[Node]) -> None:
        """A task was accepted, or more is known of it: one event for each variable, with what it waits for."""
        for node in nodes:
            self.traces.describe(task.address, function=task.function_of(node.writes), model=task.model)
            event = TaskEvent(
                kind="submitted",
                task=task.address.task,
                variable=node.writes,
                at=self._clock.now(),
                function=task.function_of(node.writes),
                model=task.model,
                reads=list(node.reads),
            )
            self._put(task.address, event)

    def emit(self, address: TaskAddress, kind: EventKind, **details: Unpack[EventDetails]) -> None:
        """Something happened to an output of a task, or to the whole task when no variable is named."""
        self._put(address, TaskEvent(kind=kind, task=address.task, at=self._clock.now(), **details))
        if (error := details.get("error")) is not None:
            self.traces.fail(address, error)
        if kind == "rejected":
            self.traces.end(address)

    def settled(self, address: TaskAddress) -> None:
        """A task is finished, or the session lets go of it. That is no event: each output had its own."""
        self.traces.end(address)

    def stored(self, address: VariableAddress, value: Value, *, producer: str = "", usage: Usage | None = None) -> None:
        """A variable is set. That is no event, since it is a fact on the bus already; but the history learns of it."""
        error = value if isinstance(value, ErrorInfo) else None
        now = self._clock.now()
        self._history.store(*address, now, producer=producer, usage=usage, error=error)

    def heard(self, status: WorkerStatus) -> None:
        """A worker says how far it is. The history learns of it; whoever listens has heard it from the worker."""
        self._history.hear(status, self._clock.now())

    def closed(self, tenant: str, session: str) -> None:
        """A session was closed: names of its variables may mean something else from now on."""
        self._history.close(tenant, session)

    def _put(self, address: TaskAddress, event: TaskEvent) -> None:
        self._history.tell(address.tenant, address.session, event)
        if (trace := self.traces.of(address)) is not None:
            event = msgspec.structs.replace(event, trace=trace.parent)
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
