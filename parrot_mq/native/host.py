"""A host of native functions: takes their calls from the bus, runs them, answers."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from parrot_mq.bus import Bus, Delivery, Subscription, pack_text
from parrot_mq.clock import Clock, SystemClock
from parrot_mq.errors import (
    CapacityExhausted,
    CodecError,
    ConfigurationError,
    FunctionFailed,
    FunctionTimedOut,
    ParrotError,
)
from parrot_mq.messages import (
    CONTENT_JSON,
    HEADER_CONTENT_TYPE,
    HEADER_PRODUCER,
    HEADER_SCHEMA,
    HEADER_STATUS,
    SCHEMA_VERSION,
    STATUS_RUNNING,
    ErrorInfo,
    NativeCall,
    NativeRunning,
    call_subject,
    decode,
    encode_error,
    encode_json,
)
from parrot_mq.native.arguments import check_arguments
from parrot_mq.native.places import Answer, Places
from parrot_mq.native.served import Served, ServedCall, by_name
from parrot_mq.native.statistics import CallEnd, HostStatistics
from parrot_mq.observability import get_logger, read_trace
from parrot_mq.program import NativeFunction
from parrot_mq.tasks import task_group
from parrot_mq.types import check_name, fresh_id

__all__ = ["NativeHost"]

QUEUE: Final = "native"
"""Queue group: each call goes to one of the hosts of its function."""
BEAT_S: Final = 1.0
STOP_S: Final = 5.0
"""How long the answers to calls that were cut short may take."""
MAX_CONCURRENCY: Final = 10_000

log = get_logger(__name__)


class NativeHost:
    """Serves native functions during an `async with` block. Any number of hosts may serve one function.

    What the code does in one call concerns no other: whatever it raises is an answer; a call whose time is over is
    answered although its code goes on, which keeps one place until it returns.

    Delivery: at least once, as the caller attempts a call again when its host is lost.

    Args:
        bus: The connection; whoever opened it closes it.
        functions: What is served.
        tenant: Whose programs may call.
        concurrency: Places: how many calls run at a time, of all functions together.
        max_waiting: How many further calls wait here for a place; beyond these callers are told to try again soon,
            which may find another host.
        drain_s: At the end of the block, how long calls that run may go on; then they are answered as lost.
        host: What it is called, for people; by default after machine and process.
        clock: The system's by default.

    Raises:
        ConfigurationError: No functions, two of one name, or a number out of its range.
        InvalidName: `tenant` or `host` cannot be a name.

    Example:
        ```python
        async with open_bus() as bus, NativeHost(bus, [search, calculate]):
            await stop.wait()
        ```
    """

    def __init__(
        self,
        bus: Bus,
        functions: Iterable[NativeFunction[..., Any]],
        *,
        tenant: str = "default",
        concurrency: int = 16,
        max_waiting: int = 4,
        drain_s: float = 30.0,
        host: str = "",
        clock: Clock | None = None,
    ) -> None:
        self.name = check_name("host", host) if host else default_name()
        self._bus = bus
        self._served = by_name(functions)
        self._tenant = check_name("tenant", tenant)
        self._concurrency = _check_range("concurrency", concurrency, 1)
        self._max_waiting = _check_range("max_waiting", max_waiting, 0)
        self._drain_s = drain_s
        self._clock = clock or SystemClock()
        self._places = Places(bus, self._tenant, concurrency, host=self.name, clock=self._clock)
        self._inbox = f"{bus.inbox_prefix}.{fresh_id('native')}"
        self._calls: dict[str, ServedCall] = {}
        self._is_stopping = False
        self._life: AbstractAsyncContextManager[None] | None = None
        self._beat = encode_json(NativeRunning(host=self.name, beat_s=BEAT_S))

    def statistics(self) -> HostStatistics:
        """How it stands."""
        functions = {name: each.counts.statistics() for name, each in self._served.items()}
        return HostStatistics(name=self.name, concurrency=self._concurrency, functions=functions)

    # -- life --------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Begin to serve; returns when calls can come.

        Raises:
            PermissionDenied: The server refused a subject; also later, when it does so after a reconnection.
            TransportError: As `Bus.subscribe`.
        """
        self._life = self._serving()
        await self._life.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._life is not None
        await self._life.__aexit__(exc_type, exc, tb)

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        async with task_group() as self._group:
            self._is_stopping = False
            inbox: Subscription | None = None
            subscriptions: list[Subscription] = []
            beats = self._group.create_task(self._beat_always(), name="native:beats")
            drain_s = 0.0
            try:
                inbox = await self._bus.subscribe(f"{self._inbox}.*", self._on_unwanted)
                for name, served in self._served.items():
                    subscriptions.append(await self._listen(name, served))
                for each in subscriptions:  # one that the server ends is the end of the host
                    self._group.create_task(each.wait_closed(), name="native:subscription")
                log.info("native_host_started", host=self.name, tenant=self._tenant, functions=list(self._served))
                yield
                drain_s = self._drain_s
            finally:
                await self._stop(subscriptions, drain_s)
                beats.cancel()
                if inbox is not None:
                    await inbox.aclose()

    async def _listen(self, name: str, served: Served) -> Subscription:
        async def take(delivery: Delivery) -> None:
            await self._on_call(served, delivery)

        return await self._bus.subscribe(call_subject(self._tenant, "*", name), take, queue=QUEUE)

    async def _stop(self, subscriptions: list[Subscription], drain_s: float) -> None:
        """Take no more calls, let those that run end in time, and answer the others as lost."""
        self._is_stopping = True
        for each in subscriptions:
            await each.drain()  # what was on its way is refused, so that it is attempted elsewhere at once
        log.info("native_host_stopping", host=self.name, num_calls=len(self._calls), drain_s=drain_s)
        await self._wait_calls(drain_s)
        for call in self._calls.values():
            call.cancel()
        await self._wait_calls(STOP_S)
        await self._places.stop()

    async def _wait_calls(self, timeout_s: float) -> None:
        tasks = [call.task for call in self._calls.values() if call.task is not None]
        if tasks and timeout_s > 0:
            await asyncio.wait(tasks, timeout=timeout_s)

    # -- what comes in -----------------------------------------------------------------------------------------------

    async def _on_call(self, served: Served, delivery: Delivery) -> None:
        """Take a call, or say why not. Calls wait for nothing here."""
        if not delivery.reply:
            log.warning("native_call_without_reply", subject=delivery.subject)
            return
        try:
            call = decode(delivery.payload, NativeCall, delivery.headers)
            check_arguments(served.function, call.arguments)
        except (CodecError, FunctionFailed) as error:
            log.warning("native_call_refused", function=served.function.name, reason=error.message)
            await self._refuse(served, delivery.reply, error, "failed")
            return
        if not self._has_room:
            await self._refuse(served, delivery.reply, self._no_room(), "refused")
            return
        inbox = f"{self._inbox}.{fresh_id('call')}"
        taken = ServedCall(served, call, delivery.reply, inbox, read_trace(delivery.headers))
        self._calls[taken.inbox] = taken
        taken.task = self._group.create_task(self._serve(taken), name=f"native:{call.call}")
        taken.task.add_done_callback(lambda _: self._calls.pop(taken.inbox))

    @property
    def _has_room(self) -> bool:
        num_places = self._places.num_usable
        is_open = num_places > 0 and not self._is_stopping
        return is_open and len(self._calls) < num_places + self._max_waiting

    def _no_room(self) -> CapacityExhausted:
        if self._is_stopping:
            return CapacityExhausted(f"the host {self.name!r} is stopping")
        return CapacityExhausted(f"the host {self.name!r} has {self._concurrency} places, and no room")

    async def _refuse(self, served: Served, reply: str, error: ParrotError, end: CallEnd) -> None:
        served.counts.num_ended[end] += 1
        await self._publish(reply, *encode_error(error))

    async def _on_unwanted(self, delivery: Delivery) -> None:
        if (call := self._calls.get(delivery.subject)) is not None:
            call.is_unwanted = True
            call.cancel()

    # -- one call ----------------------------------------------------------------------------------------------------

    async def _serve(self, call: ServedCall) -> None:
        """Run a call and answer it, unless nobody wants the answer."""
        try:
            await self._send_beat(call)
            answer: Answer = await self._places.run(call)
        except asyncio.CancelledError:
            if call.is_unwanted:
                call.counts.num_ended["cancelled"] += 1
                return
            if not self._is_stopping or (task := asyncio.current_task()) is None:
                raise
            task.uncancel()
            problem = f"its host {self.name!r} stopped before it had ended"
            answer = ErrorInfo.from_error(FunctionTimedOut(function=call.function.name, problem=problem))
        await self._send(call, answer)

    # -- what goes out -----------------------------------------------------------------------------------------------

    async def _send(self, call: ServedCall, answer: Answer) -> None:
        end, payload, headers = await self._pack(answer)
        call.counts.num_ended[end] += 1
        log.debug("native_call_ended", function=call.function.name, call=call.message.call, result=end)
        await self._publish(call.reply, payload, headers)

    async def _pack(self, answer: Answer) -> tuple[CallEnd, bytes, dict[str, str]]:
        """How a call ended, and its answer as it travels."""
        if isinstance(answer, str):
            try:
                return "returned", *await pack_text(self._bus, self._tenant, answer)
            except ParrotError as error:  # the store is away
                answer = msgspec.structs.replace(ErrorInfo.from_error(error), retryable=True)
        if isinstance(answer, FunctionTimedOut):
            return "timed_out", *encode_error(answer)
        return "retryable" if answer.retryable else "failed", *encode_error(answer)

    async def _publish(self, subject: str, payload: bytes, headers: dict[str, str], *, reply: str = "") -> None:
        try:
            await self._bus.publish(subject, payload, headers={**headers, HEADER_PRODUCER: self.name}, reply=reply)
        except ParrotError as error:  # the caller attempts it again
            log.warning("native_answer_lost", subject=subject, reason=error.message)

    async def _beat_always(self) -> None:
        while True:
            await self._clock.sleep(BEAT_S)
            for call in list(self._calls.values()):
                await self._send_beat(call)

    async def _send_beat(self, call: ServedCall) -> None:
        headers = {HEADER_STATUS: STATUS_RUNNING, HEADER_CONTENT_TYPE: CONTENT_JSON, HEADER_SCHEMA: SCHEMA_VERSION}
        await self._publish(call.reply, self._beat, headers, reply=call.inbox)


def default_name() -> str:
    """Machine and process."""
    machine = re.sub(r"[^A-Za-z0-9_-]+", "-", socket.gethostname())[:40]
    return f"{machine or 'host'}-{os.getpid()}"


def _check_range(name: str, value: int, least: int) -> int:
    if not isinstance(value, int) or not least <= value <= MAX_CONCURRENCY:
        raise ConfigurationError(
            f"{name}={value!r} cannot be used: it is a whole number from {least} to {MAX_CONCURRENCY}"
        )
    return value
