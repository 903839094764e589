"""The values of one session as they become known to this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from parrot_mq.bus import Bus, Delivery, Subscription, get_values
from parrot_mq.errors import DeadlineExceeded, InvalidName, TransportError
from parrot_mq.messages import ErrorInfo, Value, VariableAddress, decode_value, parse_variable, session_subjects
from parrot_mq.types import SessionId, TenantId, VariableId

__all__ = ["SessionValues"]

REREAD_S = 5.0
"""Seconds after which values that are waited for are read again: an event may have been missed."""


class SessionValues:
    """Futures of variables, filled by the bus.

    Core messages can be missed while the connection is down; the stream cannot. So what is waited for is read again
    after every reconnect, and from time to time.
    """

    def __init__(self, bus: Bus, tenant: TenantId, session: SessionId) -> None:
        self._bus = bus
        self._tenant = tenant
        self._session = session
        self._futures: dict[str, asyncio.Future[Value]] = {}
        self._unread: set[str] = set()  # may have been set before we listened
        self._must_reread = asyncio.Event()

    async def start(self) -> None:
        """Listen to the session's values; returns when the server knows."""
        subject = session_subjects(self._tenant, self._session, "set")
        self._subscription: Subscription = await self._bus.subscribe(subject, self._on_set)
        self._remove_listener: Callable[[], None] = self._bus.add_reconnect_listener(self._must_reread.set)

    async def aclose(self, error: ErrorInfo) -> None:
        """Stop listening; whoever still waits gets `error`."""
        self._remove_listener()
        await self._subscription.aclose()
        self.settle_all(error)

    def expect(self, variable: str, *, is_new: bool) -> None:
        """Listen for a variable; one that is new is not set yet, so that an event tells all about it."""
        if variable in self._futures:
            return
        self._futures[variable] = asyncio.get_running_loop().create_future()
        if not is_new:
            self._unread.add(variable)

    def is_set(self, variable: str) -> bool:
        """Whether a value, or the failure, is known here already."""
        future = self._futures.get(variable)
        return future is not None and future.done()

    async def future(self, variable: str) -> asyncio.Future[Value]:
        """The future of any variable; unless it is known to be new it is read once, for it may be set already."""
        self.expect(variable, is_new=False)
        future = self._futures[variable]
        if variable in self._unread and not future.done():
            await self._read([variable])
        self._unread.discard(variable)
        return future

    async def wait(self, variable: str, timeout_s: float) -> Value:
        """Wait for a value.

        Raises:
            DeadlineExceeded: It was not there within `timeout_s` seconds.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(await self.future(variable))
        except TimeoutError as error:
            raise DeadlineExceeded(what=f"variable {variable!r}", timeout_s=timeout_s) from error

    def settle(self, variables: list[str], value: Value) -> None:
        """Fill the futures that are still open."""
        for variable in variables:
            future = self._futures.get(variable)
            if future is not None and not future.done():
                future.set_result(value)

    def settle_all(self, value: Value) -> None:
        """Fill every future that is still open."""
        self.settle(list(self._futures), value)

    async def reread(self) -> None:
        """Read again what is waited for, after every reconnect and every few seconds, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(REREAD_S):
                    await self._must_reread.wait()
            except TimeoutError:
                pass
            self._must_reread.clear()
            await self._read([name for name, future in self._futures.items() if not future.done()])

    async def _read(self, variables: list[str]) -> None:
        addresses = [VariableAddress(self._tenant, self._session, VariableId(name)) for name in variables]
        try:
            found = await get_values(self._bus, addresses)
        except TransportError:
            return  # the next round tries again
        for address, value in found.items():
            self.settle([address.variable], value)

    async def _on_set(self, delivery: Delivery) -> None:
        try:
            variable = parse_variable(delivery.subject).variable
        except InvalidName:
            return
        if variable in self._futures:
            self.settle([variable], decode_value(delivery.payload, delivery.headers))
