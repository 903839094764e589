"""Requests and their answers: one inbox subscription for all of them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import NamedTuple

import structlog

from parrot_mq.bus.connection import Connection
from parrot_mq.bus.frames import Status, parse_status, publish_frame
from parrot_mq.bus.interests import Interest
from parrot_mq.errors import (
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
    NoResponders,
    ParrotError,
    PermissionDenied,
    RequestTimeout,
)

__all__ = ["Exchanges", "Reply"]

_log = structlog.get_logger(__name__)

_NO_RESPONDERS = 503


class Reply(NamedTuple):
    """One answer as it came."""

    subject: bytes
    reply: bytes
    payload: bytes
    block: bytes | None


IsLastReply = Callable[[Reply], bool]
"""Whether an answer ends the exchange."""


class _Exchange:
    """A request that waits: for one answer, or for several until one is the last."""

    __slots__ = ("future", "is_last", "subject")

    def __init__(self, subject: str, future: asyncio.Future[Reply], is_last: IsLastReply | None) -> None:
        self.subject = subject
        self.future = future
        self.is_last = is_last

    def feed(self, reply: Reply) -> bool:
        """Take one answer; returns whether it was the last."""
        if self.future.done():
            return True
        try:
            if self.is_last is not None and not self.is_last(reply):
                return False
            self.future.set_result(reply)
        except Exception as error:
            self.future.set_exception(error)
        return True

    def fail(self, error: ParrotError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def forget(self) -> None:
        """Nobody waits any more; an error that came in the same moment as a cancellation is not reported."""
        if self.future.done() and not self.future.cancelled():
            self.future.exception()


class Exchanges:
    """Sends requests and gives each its answers; whatever ends the wait ends it at once.

    A wait ends with: the answer, nobody listens, a refused subject, a lost connection, `aclose`, the timeout.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._prefix = f"{connection.config.inbox_prefix}.{secrets.token_hex(8)}."
        self._prefix_size = len(self._prefix)
        self._waiting: dict[bytes, _Exchange] = {}
        self._num_sent = 0
        connection.on_lost.append(self._on_lost)
        connection.on_publish_denied = self._on_publish_denied

    async def open(self) -> None:
        """Subscribe to the inbox.

        Raises:
            ConnectFailed: The user may not subscribe to it.
        """
        try:
            await self._connection.add_interest(Interest(self._prefix + "*", "", self._on_reply, lambda error: None))
        except PermissionDenied as error:
            prefix = self._connection.config.inbox_prefix
            reason = (
                f"the user may not subscribe to {prefix}.>, where answers come; set inbox_prefix to one that it may"
            )
            raise ConnectFailed(servers=self._connection.config.servers, reason=reason) from error

    async def request(
        self,
        subject: str,
        payload: bytes,
        block: bytes = b"",
        *,
        timeout_s: float,
        is_last: IsLastReply | None = None,
    ) -> Reply:
        """Send and wait for the first answer, or for the one of which `is_last` says so.

        Raises:
            NoResponders, PermissionDenied, ConnectionLost, ConnectionClosed, RequestTimeout: As `Bus.request`.
        """
        ends = None if is_last is None else lambda reply: _is_refused(reply) or is_last(reply)
        reply = await self._exchange(subject, payload, block, timeout_s, ends)
        if _is_refused(reply):
            raise NoResponders(subject=subject)
        return reply

    async def request_many(
        self, subject: str, payload: bytes, *, timeout_s: float
    ) -> tuple[list[Reply], Status | None]:
        """Send and wait for answers until the server sends a status; returns the answers and the status.

        Raises:
            NoResponders, PermissionDenied, ConnectionLost, ConnectionClosed, RequestTimeout: As `Bus.request`.
        """
        replies: list[Reply] = []

        def is_end(reply: Reply) -> bool:
            replies.append(reply)
            return parse_status(reply.block) is not None or reply.block is None

        last = await self._exchange(subject, payload, b"", timeout_s, is_end)
        if _is_refused(last):
            raise NoResponders(subject=subject)
        status = parse_status(last.block)
        return (replies if status is None else replies[:-1]), status

    async def _exchange(
        self, subject: str, payload: bytes, block: bytes, timeout_s: float, is_last: IsLastReply | None
    ) -> Reply:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        if not self._connection.is_connected:
            await self._wait_connected(subject, timeout_s)
        self._num_sent += 1
        token = b"%x" % self._num_sent
        exchange = _Exchange(subject, loop.create_future(), is_last)
        self._waiting[token] = exchange
        timer = loop.call_at(deadline, _time_out, exchange, timeout_s)
        try:
            self._connection.send(publish_frame(subject, self._prefix + token.decode(), block, payload))
            await self._connection.wait_writable()
            return await exchange.future
        finally:
            timer.cancel()
            self._waiting.pop(token, None)
            exchange.forget()

    async def _wait_connected(self, subject: str, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._connection.wait_connected()
        except TimeoutError:
            raise RequestTimeout(subject=subject, timeout_s=timeout_s) from None

    def close(self) -> None:
        """Fail what waits with `ConnectionClosed`."""
        for exchange in list(self._waiting.values()):
            exchange.fail(ConnectionClosed())

    # -- called in the read loop -------------------------------------------------------------------------------------

    def _on_reply(self, subject: bytes, reply: bytes, payload: bytes, block: bytes | None) -> None:
        token = subject[self._prefix_size :]
        exchange = self._waiting.get(token)
        if exchange is not None and exchange.feed(Reply(subject, reply, payload, block)):
            del self._waiting[token]

    def _on_lost(self) -> None:
        for exchange in list(self._waiting.values()):
            exchange.fail(ConnectionLost(subject=exchange.subject))

    def _on_publish_denied(self, subject: str) -> None:
        refused = [exchange for exchange in self._waiting.values() if exchange.subject.lower() == subject]
        for exchange in refused:
            exchange.fail(PermissionDenied(operation="publish on", subject=exchange.subject))
        if not refused:
            _log.warning("publish_denied", subject=subject)


def _is_refused(reply: Reply) -> bool:
    """Whether the server says that nobody listens."""
    status = parse_status(reply.block)
    return status is not None and status.code == _NO_RESPONDERS


def _time_out(exchange: _Exchange, timeout_s: float) -> None:
    exchange.fail(RequestTimeout(subject=exchange.subject, timeout_s=timeout_s))
