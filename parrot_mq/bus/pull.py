"""The standing pull: an open request for messages that is refilled before it runs dry."""

from __future__ import annotations

import asyncio
import secrets
from abc import abstractmethod

import structlog

from parrot_mq.bus.base import Handler
from parrot_mq.bus.connection import Connection
from parrot_mq.bus.frames import (
    ACK_PREFIX,
    Status,
    parse_headers,
    parse_status,
    publish_frame,
    split_ack,
    stream_delivery,
)
from parrot_mq.bus.interests import Interest
from parrot_mq.bus.jetstream import STREAM_NOT_FOUND, JetStream
from parrot_mq.bus.pump import Pump
from parrot_mq.bus.subscription import PumpedSubscription
from parrot_mq.bus.tasks import TaskOwner
from parrot_mq.errors import (
    ConnectionClosed,
    ConnectionLost,
    NoResponders,
    ParrotError,
    PermissionDenied,
    PublishRejected,
    RequestTimeout,
)

__all__ = ["PullSubscription"]

_log = structlog.get_logger(__name__)
_BATCH = 500
_EXPIRES_S = 30
_HEARTBEAT_S = 1
_TICK_S = 0.5
_MAX_SILENT_TICKS = 5
"""Two missed heartbeats; ticks and not seconds, so that a loop that stood still is not taken for a silent server."""
_REQUEST = b'"expires":%d,"idle_heartbeat":%d' % (_EXPIRES_S * 10**9, _HEARTBEAT_S * 10**9)


def _can_pass(error: ParrotError) -> bool:
    """Whether to try again: the server is away, elects, or lost a stream in memory that someone will make again."""
    if isinstance(error, PublishRejected):
        return error.err_code == STREAM_NOT_FOUND
    return isinstance(error, (NoResponders, ConnectionLost, RequestTimeout))


class PullSubscription(PumpedSubscription):
    """Pulls from one consumer at a time and makes a new one when it is lost.

    Each consumer has a subscription id of its own, so what an old one still sends is told apart and dropped. Messages
    that have arrived stay queued across consumers: the next consumer starts after them.
    """

    _is_acknowledged = False

    def __init__(
        self, connection: Connection, jetstream: JetStream, tasks: TaskOwner, stream: str, handler: Handler, name: str
    ) -> None:
        self.stream = stream
        self._connection = connection
        self._jetstream = jetstream
        self._tasks = tasks
        self._name = name
        super().__init__(Pump(handler, tasks, name=name, on_handled=self._refill))
        self._trouble = asyncio.Event()
        self._interest: Interest | None = None
        self._consumer = ""
        self._next_subject = ""
        self._num_outstanding = 0
        self._num_received = 0
        self._num_silent_ticks = 0
        self._task: asyncio.Task[None] | None = None

    # -- what the two kinds differ in --------------------------------------------------------------------------------

    @abstractmethod
    async def _make_consumer(self) -> str:
        """Create the consumer and return its name."""

    @abstractmethod
    def _accept(self, sequence: int, num_delivered: int, reply: str) -> bool:
        """Whether a message that arrived is to be handled."""

    def _on_deleted(self) -> ParrotError | None:
        """What it means that somebody deleted the consumer; None to make a new one."""
        return None

    def _drop_consumer(self) -> None:
        """Called at the end: nobody needs the consumer any more."""

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the first consumer; returns when it delivers."""
        self._connection.on_lost.append(self._trouble.set)
        try:
            await self._begin()
        except BaseException:
            await self.aclose()
            raise
        self._task = self._tasks.start(self._run(), name=f"{self._name}:watch")

    async def _finish(self, error: ParrotError | None) -> None:
        if not self._ended.done():
            self._forget_consumer()
            self._connection.on_lost.remove(self._trouble.set)
            self._drop_consumer()
            self._settle(error)
        await self._tasks.end(self._task)
        await self._pump.aclose()

    async def _run(self) -> None:
        """Make a new consumer whenever the present one is lost."""
        while not self._ended.done():
            await self._wait_trouble()
            try:
                await self._connection.wait_connected()
                await self._begin()
            except ConnectionClosed:
                return
            except ParrotError as error:
                if _can_pass(error):
                    _log.info("consumer_retried", subscription=self._name, reason=str(error))
                    await asyncio.sleep(_TICK_S)
                    self._trouble.set()
                else:
                    _log.warning("subscription_ended", subscription=self._name, reason=str(error))
                    await self._finish(error)

    async def _wait_trouble(self) -> None:
        while not self._trouble.is_set() and self._num_silent_ticks < _MAX_SILENT_TICKS:
            try:
                async with asyncio.timeout(_TICK_S):
                    await self._trouble.wait()
            except TimeoutError:
                if self._num_outstanding > 0:
                    self._num_silent_ticks += 1
        if not self._trouble.is_set():
            _log.warning("heartbeats_missed", subscription=self._name)

    async def _begin(self) -> None:
        self._trouble.clear()
        self._forget_consumer()
        self._consumer = await self._make_consumer()
        self._num_received = 0
        self._num_silent_ticks = 0
        inbox = f"{self._connection.config.inbox_prefix}.{secrets.token_hex(11)}"
        self._interest = Interest(inbox, "", self._on_message, self._on_denied)
        self._connection.add_interest_nowait(self._interest)
        self._next_subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self._consumer}"
        self._refill()

    def _forget_consumer(self) -> None:
        self._num_outstanding = 0
        if self._interest is not None:
            self._connection.remove_interest(self._interest)
            self._interest = None

    # -- called in the read loop -------------------------------------------------------------------------------------

    def _on_message(self, subject: bytes, reply: bytes, payload: bytes, block: bytes | None) -> None:
        self._num_silent_ticks = 0
        if not reply.startswith(ACK_PREFIX):
            status = parse_status(block)
            if status is not None and block is not None:
                self._on_status(status, block)
            return
        facts = split_ack(reply)
        self._num_outstanding -= 1
        self._num_received += 1
        sequence = int(facts[1])
        if int(facts[2]) != self._num_received:
            self._trouble.set()  # something was lost on the way: a new consumer sends it again
            return
        address = reply.decode() if self._is_acknowledged else ""
        if self._accept(sequence, int(facts[0]), address):
            self._pump.put(stream_delivery(subject, address, payload, block, sequence=sequence, facts=facts))
        elif self._num_outstanding == 0:
            self._refill()

    def _on_status(self, status: Status, block: bytes) -> None:
        if status.code == 100:
            return
        if status.code == 408:
            pending = parse_headers(block).get("Nats-Pending-Messages", "0")
            self._num_outstanding = max(0, self._num_outstanding - int(pending))
            self._refill()
            return
        if "consumer deleted" in status.text.lower() and (error := self._on_deleted()) is not None:
            self._tasks.start(self._finish(error), name=f"{self._name}:end")
            return
        _log.info("consumer_lost", subscription=self._name, code=status.code, reason=status.text)
        self._num_outstanding = 0
        self._trouble.set()

    def _on_denied(self, error: PermissionDenied) -> None:
        self._tasks.start(self._finish(error), name=f"{self._name}:end")

    def _refill(self) -> None:
        """Ask for more when half of a batch, or less, is on the way or waits here."""
        num_present = self._num_outstanding + len(self._pump)
        if num_present <= _BATCH // 2 and self._interest is not None:
            body = b'{"batch":%d,%b}' % (_BATCH - num_present, _REQUEST)
            self._connection.send(publish_frame(self._next_subject, self._interest.subject, b"", body))
            self._num_outstanding = _BATCH - len(self._pump)
