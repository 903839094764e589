"""The coordinator's view of the facts: tasks that are not finished, variables that are set, and how to add to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from parrot_mq.bus import Bus, Delivery, Subscription, fail_variable, get_values
from parrot_mq.coordinator.protocol import SessionKey
from parrot_mq.errors import InvalidName, ParrotError
from parrot_mq.messages import (
    HEADER_PRODUCER,
    STREAM_TASKS,
    STREAM_VARS,
    DeadTask,
    ErrorInfo,
    TaskAddress,
    Value,
    VariableAddress,
    dead_subject,
    decode_value,
    encode,
    parse_task,
    parse_variable,
    session_subjects,
)
from parrot_mq.observability import get_logger
from parrot_mq.types import VariableId

__all__ = ["Facts"]

CONSUMER = "coordinator"

OnTask = Callable[[TaskAddress, Delivery], Awaitable[None]]
OnVariable = Callable[[VariableAddress, Value, str], Awaitable[None]]

log = get_logger(__name__)


class Facts:
    """Reads the two streams and settles tasks. It holds the tasks that it took and that are not settled."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._unfinished: dict[SessionKey, dict[TaskAddress, Delivery]] = {}
        self._subscriptions: list[Subscription] = []

    async def start(self, on_task: OnTask, on_variable: OnVariable) -> None:
        """Follow the variables from now on, then take over the tasks that are not finished.

        The order matters: a variable that is set after a task was looked up is seen by the follower.
        """
        self._on_task = on_task
        self._on_variable = on_variable
        self._unfinished.clear()
        sequence = await self._bus.last_sequence(STREAM_VARS)
        self._subscriptions.append(
            await self._bus.follow(STREAM_VARS, self._variable_delivered, after_sequence=sequence)
        )
        self._subscriptions.append(await self._bus.take(STREAM_TASKS, self._task_delivered, consumer=CONSUMER))

    async def wait_closed(self) -> None:
        """Wait until a stream can no longer be read; raises why (`ConsumerTakenOver`: another coordinator started)."""
        async with asyncio.TaskGroup() as group:
            for subscription in self._subscriptions:
                group.create_task(subscription.wait_closed(), name="facts:wait_closed")

    async def aclose(self) -> None:
        """Stop reading. Nothing is lost: what is not settled stays in the stream."""
        for subscription in reversed(self._subscriptions):
            await subscription.aclose()
        self._subscriptions.clear()

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _task_delivered(self, delivery: Delivery) -> None:
        try:
            address = parse_task(delivery.subject)
        except InvalidName as error:
            log.warning("task_rejected", subject=delivery.subject, error=error.message)
            await self._bus.acknowledge(delivery)
            return
        key = SessionKey(address.tenant, address.session)
        self._unfinished.setdefault(key, {})[address] = delivery
        await self._on_task(address, delivery)

    async def _variable_delivered(self, delivery: Delivery) -> None:
        try:
            address = parse_variable(delivery.subject)
        except InvalidName as error:
            log.warning("variable_ignored", subject=delivery.subject, error=error.message)
            return
        producer = delivery.headers.get(HEADER_PRODUCER, "")
        await self._on_variable(address, decode_value(delivery.payload, delivery.headers), producer)

    def unfinished(self, key: SessionKey) -> list[tuple[TaskAddress, Delivery]]:
        """The tasks of a session that were taken and not settled."""
        return list(self._unfinished.get(key, {}).items())

    @property
    def num_unfinished(self) -> int:
        """All tasks that were taken and not settled."""
        return sum(map(len, self._unfinished.values()))

    async def values(self, key: SessionKey, names: Iterable[VariableId]) -> dict[VariableId, Value]:
        """The values of those variables of a session that are set now."""
        found = await get_values(self._bus, [VariableAddress(*key, name) for name in names])
        return {address.variable: value for address, value in found.items()}

    async def is_new_session(self, key: SessionKey) -> bool:
        """Whether no variable of the session was ever set, so that following tells everything about it."""
        return await self._bus.is_empty(STREAM_VARS, session_subjects(*key, "var"))

    # -- settling ----------------------------------------------------------------------------------------------------

    async def fail(self, failures: Iterable[tuple[VariableAddress, ParrotError]]) -> None:
        """Give variables an error, unless they are set already."""
        async with asyncio.TaskGroup() as group:
            for address, error in failures:
                group.create_task(fail_variable(self._bus, address, error), name=f"fail:{address.variable}")

    async def settle(self, address: TaskAddress) -> None:
        """Remove a task: its outputs are set."""
        tasks = self._unfinished.get(SessionKey(address.tenant, address.session), {})
        delivery = tasks.pop(address, None)
        if not tasks:
            self._unfinished.pop(SessionKey(address.tenant, address.session), None)
        if delivery is not None:
            await self._bus.acknowledge(delivery)

    async def bury(self, address: TaskAddress, error: ParrotError) -> None:
        """Keep the record of a task that cannot be run, and why; then remove it from the work."""
        delivery = self._unfinished.get(SessionKey(address.tenant, address.session), {}).get(address)
        record = delivery.payload.decode(errors="replace") if delivery is not None else ""
        reason = ErrorInfo.from_error(error)
        dead = DeadTask(session=address.session, task=address.task, reason=reason, record=record)
        await self._bus.publish_once(dead_subject(address.tenant, address.task), encode(dead))
        log.warning("task_rejected", session=address.session, task=address.task, error=error.message)
        await self.settle(address)

    async def forget(self, key: SessionKey) -> None:
        """Remove a session's tasks and values."""
        for address, _ in self.unfinished(key):
            await self.settle(address)
        await self._bus.purge(STREAM_VARS, session_subjects(*key, "var"))
