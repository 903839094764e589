"""A variable in pieces, while it is generated."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

from parrot_mq.bus import Bus, Delivery, Subscription, fetch_text, request_replay
from parrot_mq.client.merging import StreamReader
from parrot_mq.errors import CodecError, DeadlineExceeded, ParrotError
from parrot_mq.messages import TokenDelta, Value, VariableAddress, decode, stream_subject
from parrot_mq.types import SessionId, TenantId, TextPiece, VariableId, fresh_id

__all__ = ["stream_text"]

ASK_AGAIN_S = 1.0
"""Seconds after which a request for what is missing is sent again, if it still is."""
MAX_WAITING = 4096
"""Deltas that wait for a slow reader; older ones are dropped then, and asked for when it comes to them."""

T = TypeVar("T")


async def stream_text(
    bus: Bus, tenant: str, session: str, variable: str, value: asyncio.Future[Value], timeout_s: float
) -> AsyncGenerator[TextPiece, None]:
    """Yield what was generated so far, new text as it is generated, and in the end what is missing: joined, the value.

    Deltas are never stored. Of those that were missed, the worker is asked for the text; it has no log probabilities.

    Raises:
        DeadlineExceeded: The value was not complete within `timeout_s` seconds.
        GenerationAborted: Another attempt wrote another text than the one that was yielded so far.
        ParrotError: The variable failed; the error says why.
    """
    address = VariableAddress(TenantId(tenant), SessionId(session), VariableId(variable))
    reader = StreamReader(variable)
    ends_at = asyncio.get_running_loop().time() + timeout_s
    too_late = DeadlineExceeded(what=f"variable {variable!r}", timeout_s=timeout_s)
    async with _Source(bus, address, value) as source:
        while await _until(ends_at, source.wait_news(), too_late):
            for delta in source.take():
                for piece in reader.feed(delta):
                    yield piece
            await _until(ends_at, source.ask_for_missing(reader), too_late)
    rest = reader.finish(await fetch_text(bus, tenant, value.result()))
    if rest is not None:
        yield rest


async def _until(ends_at: float, waiting: Awaitable[T], too_late: DeadlineExceeded) -> T:
    try:
        async with asyncio.timeout_at(ends_at):
            return await waiting
    except TimeoutError as error:
        raise too_late from error


class _Source:
    """What comes of one variable, and requests for what did not come.

    A reader who is there from the beginning sends none.
    """

    def __init__(self, bus: Bus, address: VariableAddress, value: asyncio.Future[Value]) -> None:
        self._bus = bus
        self._address = address
        self._value = value
        self._deltas: deque[TokenDelta] = deque(maxlen=MAX_WAITING)
        self._has_news = asyncio.Event()
        self._was_cut = False  # the connection was; what is missing is not asked for yet
        self._inbox = ""
        self._asked_at = float("-inf")
        self._subscriptions: list[Subscription] = []

    async def __aenter__(self) -> Self:
        await self._listen(stream_subject(*self._address))
        self._value.add_done_callback(self._on_value)
        self._remove_listener = self._bus.add_reconnect_listener(self._on_reconnect)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._remove_listener()
        self._value.remove_done_callback(self._on_value)
        for subscription in self._subscriptions:
            await subscription.aclose()

    async def wait_news(self) -> bool:
        """Wait for deltas or a reconnection; False once the value is there and every delta is taken."""
        while not (self._deltas or self._was_cut or self._value.done()):
            self._has_news.clear()
            await self._has_news.wait()
        return bool(self._deltas) or not self._value.done()

    def take(self) -> list[TokenDelta]:
        """The deltas that have come."""
        deltas = list(self._deltas)
        self._deltas.clear()
        return deltas

    async def ask_for_missing(self, reader: StreamReader) -> None:
        """Ask for what a reader misses: at once for each gap and after a reconnection, and again if it stays away."""
        if not self._must_ask(reader):
            return
        self._asked_at = asyncio.get_running_loop().time()
        with suppress(ParrotError):  # it may be forbidden, or the server away: in the end the value has everything
            if not self._inbox:
                inbox = f"{self._bus.inbox_prefix}.{fresh_id('replay')}"
                await self._listen(inbox)
                self._inbox = inbox
            await request_replay(self._bus, self._address, offset=reader.num_read, reply=self._inbox)

    def _must_ask(self, reader: StreamReader) -> bool:
        was_cut, self._was_cut = self._was_cut, False
        if was_cut and reader.has_begun:
            return True
        if not reader.has_gap:
            self._asked_at = float("-inf")  # the next gap is a new one
            return False
        return asyncio.get_running_loop().time() >= self._asked_at + ASK_AGAIN_S

    async def _listen(self, subject: str) -> None:
        self._subscriptions.append(await self._bus.subscribe(subject, self._on_delta))

    async def _on_delta(self, delivery: Delivery) -> None:
        try:
            self._deltas.append(decode(delivery.payload, TokenDelta, delivery.headers))
        except CodecError:
            return  # somebody else's bytes, or nobody generates it; the value is what counts
        self._has_news.set()

    def _on_value(self, _: asyncio.Future[Value]) -> None:
        self._has_news.set()

    def _on_reconnect(self) -> None:
        self._was_cut = True
        self._has_news.set()
