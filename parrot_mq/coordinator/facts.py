"""The coordinator's view of the facts: tasks that are not finished, variables that are set, and how to add to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from parrot_mq.bus import Bus, Delivery, Subscription, fail_variable, fetch_text, get_values, set_variable
from parrot_mq.bus.tasks import for_each
from parrot_mq.coordinator.protocol import SessionKey, TaskArrived, VariableStored
from parrot_mq.errors import CodecError, DeadlineExceeded, InvalidName, ParrotError, VariableAlreadySet
from parrot_mq.messages import (
    HEADER_PRODUCER,
    STREAM_TASKS,
    STREAM_VARS,
    BlobRef,
    DeadTask,
    ErrorInfo,
    PromptTask,
    TaskAddress,
    TaskRecord,
    Value,
    VariableAddress,
    dead_subject,
    decode,
    decode_value,
    encode_json,
    item_variable,
    parse_task,
    parse_variable,
    read_usage,
    session_subjects,
)
from parrot_mq.observability import TraceContext, get_logger, read_trace, use_trace
from parrot_mq.tasks import task_group
from parrot_mq.types import VariableId

__all__ = ["Facts", "Failure"]

CONSUMER = "coordinator"
CATCH_UP_S = 20.0
"""Less than a client waits for the answer to its request."""
NUM_WRITERS = 64
MAX_RECORD_CHARACTERS = 64 * 1024
"""How much of the record of a task that is given up is kept."""

OnTask = Callable[[SessionKey, TaskArrived], Awaitable[None]]
OnVariable = Callable[[SessionKey, VariableStored], Awaitable[None]]

log = get_logger(__name__)


class Failure(NamedTuple):
    """A variable that is to become an error: why, and where its task belongs in a trace."""

    address: VariableAddress
    error: ParrotError
    trace: TraceContext | None


class Facts:
    """Reads the two streams and settles tasks. It holds the tasks that it took and that are not settled."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._unfinished: dict[SessionKey, dict[TaskAddress, Delivery]] = {}
        self._subscriptions: list[Subscription] = []
        self._last_task = 0  # sequence of the newest task that was handed on
        self._inherited_up_to = 0
        self._task_came = asyncio.Event()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self, on_task: OnTask, on_variable: OnVariable) -> None:
        """Follow the variables from now on, then take over the tasks that are not finished.

        The order matters: a variable that is set after a task was looked up is seen by the follower.
        """
        self._on_task = on_task
        self._on_variable = on_variable
        self._unfinished.clear()
        self._last_task = 0
        try:
            newest = await self._bus.last_sequence(STREAM_VARS)
            self._inherited_up_to = await self._bus.last_sequence(STREAM_TASKS)
            self._subscriptions = [await self._bus.follow(STREAM_VARS, self._variable_delivered, after_sequence=newest)]
            self._subscriptions.append(await self._bus.take(STREAM_TASKS, self._task_delivered, consumer=CONSUMER))
        except BaseException:
            await self.stop()
            raise

    async def watch(self) -> None:
        """Wait until a stream can no longer be read, and let `wait_closed` tell why."""
        try:
            async with task_group() as group:
                for subscription in self._subscriptions:
                    group.create_task(subscription.wait_closed(), name="facts:wait_closed")
        except ParrotError as error:
            if not self._ended.done():
                self._ended.set_exception(error)
                self._ended.exception()  # marks it as seen: perhaps nobody waits

    async def wait_closed(self) -> None:
        """Wait until a stream can no longer be read, or `aclose` is called.

        Raises:
            ConsumerTakenOver: Another coordinator has started; this one has to end.
            TransportError: Why else.
        """
        await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Stop reading; `start` goes on. Nothing is lost: what is not settled stays in the stream."""
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in reversed(subscriptions):
            await subscription.aclose()

    def close(self) -> None:
        """Let `wait_closed` return."""
        if not self._ended.done():
            self._ended.set_result(None)

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _task_delivered(self, delivery: Delivery) -> None:
        try:
            address = parse_task(delivery.subject)
        except InvalidName as error:
            log.warning("task_rejected", subject=delivery.subject, error=error.message)
            await self._bus.acknowledge(delivery)
        else:
            key = SessionKey(address.tenant, address.session)
            self._unfinished.setdefault(key, {})[address] = delivery
            await self._on_task(key, TaskArrived(address, delivery))
        finally:
            self._last_task = max(self._last_task, delivery.sequence)
            self._task_came.set()

    async def _variable_delivered(self, delivery: Delivery) -> None:
        try:
            address = parse_variable(delivery.subject)
        except InvalidName as error:
            log.warning("variable_ignored", subject=delivery.subject, error=error.message)
            return
        value = decode_value(delivery.payload, delivery.headers)
        producer = delivery.headers.get(HEADER_PRODUCER, "")
        usage = read_usage(delivery.headers)
        stored = VariableStored(address.variable, value, producer, delivery.sequence, usage)
        await self._on_variable(SessionKey(address.tenant, address.session), stored)

    async def catch_up(self, key: SessionKey) -> None:
        """Wait until every task of a session that is stored now has been handed on.

        A request does not come by way of the stream, so it may overtake a task that was stored before it was sent; and
        after a take-over all that is unfinished has to be read first.

        Raises:
            DeadlineExceeded: That takes too long.
        """
        newest = await self._bus.newest(STREAM_TASKS, session_subjects(*key, "task"))
        if newest is None:
            return
        try:
            async with asyncio.timeout(CATCH_UP_S):
                while self._last_task < newest.sequence:
                    self._task_came.clear()
                    await self._task_came.wait()
        except TimeoutError as error:
            log.warning("tasks_are_late", last=self._last_task, newest=newest.sequence)
            what = "reading the tasks that are stored"
            raise DeadlineExceeded(what=what, timeout_s=CATCH_UP_S) from error

    def unfinished(self, key: SessionKey) -> list[tuple[TaskAddress, Delivery]]:
        """The tasks of a session that were taken and not settled."""
        return list(self._unfinished.get(key, {}).items())

    def is_unfinished(self, address: TaskAddress) -> bool:
        """Whether a task was taken and is not settled."""
        return address in self._unfinished.get(SessionKey(address.tenant, address.session), ())

    def is_inherited(self, task: Delivery) -> bool:
        """Whether a task was stored before `start`: then somebody else may have let it in."""
        return task.sequence <= self._inherited_up_to

    @property
    def num_unfinished(self) -> int:
        """All tasks that were taken and not settled."""
        return sum(map(len, self._unfinished.values()))

    async def values(self, key: SessionKey, names: Iterable[VariableId]) -> dict[VariableId, Value]:
        """The values of those variables of a session that are set now."""
        found = await get_values(self._bus, [VariableAddress(*key, name) for name in names])
        return {address.variable: value for address, value in found.items()}

    async def text(self, tenant: str, value: Value) -> str:
        """The text that a value stands for.

        Raises:
            ParrotError: The value is an error: the one that it carries.
            BlobMissing: The large text is not in the store.
        """
        return await fetch_text(self._bus, tenant, value)

    async def is_new_session(self, key: SessionKey) -> bool:
        """Whether no variable of the session was ever set, so that following tells everything about it."""
        return await self._bus.is_empty(STREAM_VARS, session_subjects(*key, "var"))

    # -- writing -----------------------------------------------------------------------------------------------------

    async def store(self, address: VariableAddress, text: str) -> None:
        """Set a variable; one that is set already stays as it is."""
        with suppress(VariableAlreadySet):
            await set_variable(self._bus, address, text)

    async def store_items(self, address: VariableAddress, items: Sequence[str]) -> None:
        """Set the variables of a list's items."""
        tenant, session, name = address

        async def store_one(item: tuple[int, str]) -> None:
            await self.store(VariableAddress(tenant, session, item_variable(name, item[0])), item[1])

        await for_each(enumerate(items), store_one, num_workers=NUM_WRITERS)

    async def put_blob(self, tenant: str, text: str) -> BlobRef:
        """A claim check of a text that is too large to travel."""
        data = text.encode()
        return BlobRef(digest=await self._bus.put_blob(tenant, data), size_bytes=len(data))

    # -- settling ----------------------------------------------------------------------------------------------------

    async def fail(self, failures: Iterable[Failure]) -> list[VariableId]:
        """Give variables an error; returns those that were set already."""
        set_before: list[VariableId] = []

        async def fail_one(failure: Failure) -> None:
            address, error, trace = failure
            with use_trace(trace):
                if not await fail_variable(self._bus, address, error):
                    set_before.append(address.variable)

        await for_each(failures, fail_one, num_workers=NUM_WRITERS)
        return set_before

    async def settle(self, address: TaskAddress) -> None:
        """Remove a task: its outputs are set."""
        key = SessionKey(address.tenant, address.session)
        tasks = self._unfinished.get(key, {})
        delivery = tasks.pop(address, None)
        if not tasks:
            self._unfinished.pop(key, None)
        if delivery is not None:
            await self._bus.acknowledge(delivery)

    async def bury(self, address: TaskAddress, error: ParrotError) -> None:
        """Keep the record of a task that cannot be run, and why; then remove it from the work."""
        await self.keep_record(address, error)
        await self.settle(address)

    async def keep_record(self, address: TaskAddress, error: ParrotError) -> None:
        """Store the record of a task that is given up, and why; it stays among the work until its outputs are set."""
        delivery = self._unfinished.get(SessionKey(address.tenant, address.session), {}).get(address)
        record = _readable(delivery)[:MAX_RECORD_CHARACTERS] if delivery is not None else ""
        reason = ErrorInfo.from_error(error)
        dead = DeadTask(session=address.session, task=address.task, reason=reason, record=record)
        await self._bus.publish_once(dead_subject(address.tenant, address.task), encode_json(dead))
        with use_trace(read_trace(delivery.headers) if delivery is not None else None):
            log.warning("task_given_up", session=address.session, task=address.task, error=error.message)

    async def forget(self, key: SessionKey) -> int:
        """Remove a session's tasks and values; returns the sequence up to which its variables are gone for sure."""
        for address, _ in self.unfinished(key):
            await self.settle(address)
        newest = await self._bus.last_sequence(STREAM_VARS)
        await self._bus.purge(STREAM_VARS, session_subjects(*key, "var"))
        return newest


def _readable(delivery: Delivery) -> str:
    """A task's record for people: JSON if it is a task at all."""
    try:
        return encode_json(decode(delivery.payload, TaskRecord, delivery.headers, default=PromptTask)).decode()
    except CodecError:
        return delivery.payload.decode(errors="replace")
