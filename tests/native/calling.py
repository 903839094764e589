"""Calls a host as the coordinator does, or anybody else: a request on the subject of the function."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from parrot_mq.bus import Bus, Delivery, MemoryBus, MemoryServer, fetch_text
from parrot_mq.errors import ParrotError
from parrot_mq.messages import (
    HEADER_STATUS,
    STATUS_RUNNING,
    BlobRef,
    NativeCall,
    NativeRunning,
    call_subject,
    decode,
    decode_value,
    encode_json,
)
from parrot_mq.native import NativeHost
from parrot_mq.observability import current_trace, trace_headers
from parrot_mq.program import NativeFunction
from parrot_mq.testing import SimulatedClock, run_simulation
from parrot_mq.types import fresh_id

T = TypeVar("T")


@dataclass
class Caller:
    """Asks, and keeps the beats that came before the answer."""

    bus: Bus
    tenant: str = "default"
    beats: list[tuple[NativeRunning, str]] = field(default_factory=list)

    async def request(
        self,
        function: str,
        arguments: Mapping[str, str | BlobRef],
        *,
        outputs: Sequence[str] = ("result",),
        deadline: float = 0.0,
        attempt: int = 1,
        timeout_s: float = 30.0,
    ) -> Delivery:
        """The last answer."""
        call = NativeCall(
            call=f"{self.tenant}.session.{fresh_id('v')}",
            function=function,
            arguments=dict(arguments),
            outputs=list(outputs),
            attempt=attempt,
            deadline=deadline,
        )
        return await self.send(function, encode_json(call), timeout_s=timeout_s)

    async def send(
        self, function: str, payload: bytes, headers: Mapping[str, str] | None = None, *, timeout_s: float = 30.0
    ) -> Delivery:
        """The last answer to any bytes."""
        subject, found = (
            call_subject(self.tenant, "session", function),
            {**trace_headers(current_trace()), **(headers or {})},
        )
        return await self.bus.request(subject, payload, headers=found, timeout_s=timeout_s, is_last=self._is_last)

    async def call(self, function: str, *, outputs: Sequence[str] = ("result",), **arguments: str) -> str:
        """The text of the answer; raises the error that it is."""
        return await self.read(await self.request(function, arguments, outputs=outputs))

    async def fail(self, function: str, *, outputs: Sequence[str] = ("result",), **arguments: str) -> ParrotError:
        """The error of the answer."""
        try:
            text = await self.call(function, outputs=outputs, **arguments)
        except ParrotError as error:
            return error
        raise AssertionError(f"no error, but {text!r}")

    async def read(self, answer: Delivery) -> str:
        """The text of an answer; raises the error that it is."""
        return await fetch_text(self.bus, self.tenant, decode_value(answer.payload, answer.headers))

    def _is_last(self, answer: Delivery) -> bool:
        if answer.headers.get(HEADER_STATUS) != STATUS_RUNNING:
            return True
        self.beats.append((decode(answer.payload, NativeRunning, answer.headers), answer.reply))
        return False


def simulate(main: Coroutine[Any, Any, T]) -> T:
    """Run a test in virtual time, in which waiting costs nothing."""

    async def run() -> T:
        return await main

    return run_simulation(run)


@asynccontextmanager
async def simulated_host(
    *functions: NativeFunction[..., Any], server: MemoryServer | None = None, **options: Any
) -> AsyncIterator[tuple[NativeHost, Caller]]:
    """A host in virtual time, and somebody who calls it."""
    if server is None:
        server = MemoryServer(clock=SimulatedClock())
        server.ensure_streams()
    async with (
        MemoryBus(server) as host_bus,
        MemoryBus(server) as caller_bus,
        NativeHost(host_bus, functions, clock=SimulatedClock(), **options) as host,
    ):
        yield host, Caller(caller_bus)


def now() -> float:
    """Seconds since 1970 in virtual time."""
    return SimulatedClock().now()
