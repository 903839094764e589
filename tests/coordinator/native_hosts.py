"""Hosts of native functions as any NATS client can write them: a subscription in a queue group, and answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from parrot_mq.bus import Bus, Delivery, Subscription
from parrot_mq.errors import CapacityExhausted, FunctionFailed
from parrot_mq.messages import (
    HEADER_STATUS,
    STATUS_RUNNING,
    ErrorInfo,
    NativeCall,
    NativeRunning,
    call_subject,
    decode,
    encode_error,
    encode_json,
)

__all__ = ["Host", "Running", "Script"]


@dataclass(slots=True)
class Running:
    """One call at a host.

    Attributes:
        host: Where it runs.
        call: What was asked.
        delivery: The message as it came.
        at: When it came, seconds on the loop's clock.
        stopped: Set when the caller says that the result is not wanted.
    """

    host: Host
    call: NativeCall
    delivery: Delivery
    at: float
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, text: str | bytes, headers: Mapping[str, str] | None = None) -> None:
        """Give the answer."""
        payload = text if isinstance(text, bytes) else text.encode()
        await self.host.bus.publish(self.delivery.reply, payload, headers=headers)

    async def fail(self, problem: str, *, retryable: bool) -> None:
        """Answer with an error of the function."""
        error = FunctionFailed(function=self.call.function, problem=problem)
        info = ErrorInfo(code=error.code, message=error.message, retryable=retryable, facts=error.facts)
        await self.refuse(info)

    async def refuse(self, error: BaseException | ErrorInfo | None = None) -> None:
        """Answer with an error; without one, that there is no room."""
        payload, headers = encode_error(error or CapacityExhausted(f"host {self.host.name!r} has no room"))
        await self.answer(payload, headers)

    async def beat(self, beat_s: float = 1.0, *, reply: str | None = None) -> None:
        """Say that it runs."""
        inbox = f"{self.host.inbox}.{self.host.runs.index(self)}" if reply is None else reply
        headers = {HEADER_STATUS: STATUS_RUNNING}
        payload = encode_json(NativeRunning(host=self.host.name, beat_s=beat_s))
        await self.host.bus.publish(self.delivery.reply, payload, headers=headers, reply=inbox)

    async def beat_for(self, duration_s: float, beat_s: float = 1.0) -> None:
        """Say so again and again, for a time or until it is stopped."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + duration_s
        while loop.time() < ends_at and not self.stopped.is_set():
            await self.beat(beat_s)
            await asyncio.sleep(min(beat_s, ends_at - loop.time()))


Script = Callable[[Running], Awaitable[None]]
"""What a host does with a call."""


class Host:
    """Serves functions with a script until it is closed; calls run side by side.

    Attributes:
        runs: All calls that came, in order.
    """

    def __init__(self, bus: Bus, group: asyncio.TaskGroup, script: Script, *, name: str = "host") -> None:
        self.bus = bus
        self.name = name
        self.runs: list[Running] = []
        self._group = group
        self._script = script
        self._subscriptions: list[Subscription] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def inbox(self) -> str:
        """Where it is told that results are not wanted."""
        return f"_INBOX.{self.name}"

    async def serve(self, *functions: str, tenant: str = "default") -> None:
        """Take calls."""
        if not self._subscriptions:
            self._subscriptions.append(await self.bus.subscribe(f"{self.inbox}.*", self._on_stop))
        for function in functions:
            subject = call_subject(tenant, "*", function)
            self._subscriptions.append(await self.bus.subscribe(subject, self._on_call, queue="native"))

    async def vanish(self) -> None:
        """End as a process that is killed: what runs says nothing any more."""
        for subscription in self._subscriptions:
            await subscription.aclose()
        for task in self._tasks:
            task.cancel()

    async def _on_call(self, delivery: Delivery) -> None:
        call = decode(delivery.payload, NativeCall, delivery.headers)
        run = Running(self, call, delivery, asyncio.get_running_loop().time())
        self.runs.append(run)
        self._tasks.append(self._group.create_task(self._do(run)))

    async def _do(self, run: Running) -> None:
        await self._script(run)

    async def _on_stop(self, delivery: Delivery) -> None:
        self.runs[int(delivery.subject.rpartition(".")[2])].stopped.set()
