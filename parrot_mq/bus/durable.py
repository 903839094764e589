"""What anyone's stream holds, shared by many processes, each message until it is settled; on top of any bus."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import msgspec
import structlog

from parrot_mq.bus.backoff import TryAgain, retrying
from parrot_mq.bus.base import Bus, Delivery
from parrot_mq.bus.frames import split_ack
from parrot_mq.bus.jetstream import STREAM_NOT_FOUND, TEMPORARY, ApiError
from parrot_mq.bus.matching import matches
from parrot_mq.errors import ConfigurationError, PublishRejected, StreamMismatch, TransportError
from parrot_mq.tasks import task_group

__all__ = ["DurableConsumer", "Settlement", "SettlingHandler"]

_log = structlog.get_logger(__name__)
_ACK = "$JS.ACK."
_EXPIRES_S = 10.0
_SILENT_S = _EXPIRES_S + 2.0
_PAUSE_S = 0.5
_TOTAL_S = 15.0
_AGAIN_S = 1.0
_MAX_ACK_PENDING = 20_000
"""Of all processes together: what a killed one had in hand must not keep the others from going on."""
_CONSUMER_NOT_CHANGEABLE = frozenset({10012, 10013, 10016, 10100, 10148})


class Settlement(Enum):
    """What becomes of a delivery."""

    DONE = "done"
    """It was handled; the stream forgets it for this consumer."""
    AGAIN = "again"
    """It is delivered again after a second."""


SettlingHandler = Callable[[Delivery], Awaitable[Settlement]]
"""Handles one delivery; many run at a time. What it raises ends the consumer."""


class _StreamConfig(msgspec.Struct, frozen=True):
    subjects: list[str] = []


class _Reply(msgspec.Struct, frozen=True):
    error: ApiError | None = None
    config: _StreamConfig = _StreamConfig()  # of a stream


@dataclass(frozen=True, kw_only=True)
class DurableConsumer:
    """A durable consumer of a stream, which processes share under its name.

    No more than `max_in_hand` deliveries are asked for: what is not handled stays in the stream, and other processes
    can have it. What takes long is kept by signs of life; what a killed process had comes again after `ack_wait_s`.

    Delivery: at least once. Ordering: none.

    Attributes:
        stream: The stream; it has to exist.
        name: Of the consumer.
        subject: Which subjects of the stream; empty for all.
        max_in_hand: Deliveries that one process handles at a time.
        ack_wait_s: Seconds without a sign of life after which a delivery is made again.
    """

    stream: str
    name: str
    subject: str = ""
    max_in_hand: int = 32
    ack_wait_s: float = 30.0

    async def create(self, bus: Bus) -> None:
        """Make the consumer, or find it as it is.

        Raises:
            ConfigurationError: There is no such stream.
            StreamMismatch: The consumer exists with other settings.
            TransportError: The server refused it, or does not answer.
        """
        body = msgspec.json.encode({"stream_name": self.stream, "config": self._settings()})
        await self._ask(bus, f"CONSUMER.DURABLE.CREATE.{self.stream}.{self.name}", body)

    async def takes(self, bus: Bus, subject: str) -> bool:
        """Whether what is published on a subject would be delivered here; raises as `create`."""
        reply = await self._ask(bus, f"STREAM.INFO.{self.stream}", b"")
        is_stored = any(matches(each, subject) for each in reply.config.subjects)
        return is_stored and (not self.subject or matches(self.subject, subject))

    async def _ask(self, bus: Bus, operation: str, body: bytes) -> _Reply:
        subject = f"$JS.API.{operation}"

        async def attempt(timeout_s: float) -> _Reply:
            answer = await bus.request(subject, body, timeout_s=timeout_s)
            reply = msgspec.json.decode(answer.payload, type=_Reply)
            if reply.error is not None:
                raise self._refused(subject, reply.error)
            return reply

        return await retrying(_TOTAL_S, attempt)

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "durable_name": self.name,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": int(self.ack_wait_s * 1e9),
            "max_ack_pending": _MAX_ACK_PENDING,
            "max_deliver": -1,
        }
        return {**settings, "filter_subject": self.subject} if self.subject else settings

    def _refused(self, subject: str, error: ApiError) -> Exception:
        if error.err_code == STREAM_NOT_FOUND:
            return ConfigurationError(f"there is no stream {self.stream!r}; create it, or name one that exists")
        if error.err_code in _CONSUMER_NOT_CHANGEABLE:
            return StreamMismatch(stream=self.stream, reason=f"consumer {self.name!r}: {error.description}")
        rejected = PublishRejected(subject=subject, err_code=error.err_code, description=error.description)
        return TryAgain(rejected) if error.err_code in TEMPORARY else rejected

    async def run(self, bus: Bus, handler: SettlingHandler, stop: asyncio.Event) -> None:
        """Handle what the stream holds and what comes, until `stop` is set; then finish what is in hand.

        Cancel: what is in hand is delivered again, to whoever is there.

        Raises:
            ConfigurationError, StreamMismatch, TransportError: As `create`.
        """
        await self.create(bus)
        await _Pulling(self, bus, handler, stop).run()


class _Pulling:
    """One process that pulls.

    One request is open at a time. It asks for as many as there is room for, and the next one follows when it is used
    up, when it has expired, or when the connection was made anew.
    """

    def __init__(self, consumer: DurableConsumer, bus: Bus, handler: SettlingHandler, stop: asyncio.Event) -> None:
        self._consumer = consumer
        self._bus = bus
        self._handler = handler
        self._stop = stop
        self._inbox = f"{bus.inbox_prefix}.{secrets.token_hex(11)}"
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.name}"
        self._in_hand: set[str] = set()
        self._num_requests = self._num_open = 0
        self._has_failed = False  # the open request ended without a message
        self._change = asyncio.Event()

    async def run(self) -> None:
        """Pull until stopped."""
        subscription = await self._bus.subscribe(f"{self._inbox}.*", self._on_message)
        remove_listener = self._bus.add_reconnect_listener(self._on_reconnect)
        try:
            async with task_group() as group:
                self._group = group
                keeper = group.create_task(self._keep(), name=f"{self._consumer.name}:keep")
                stopper = group.create_task(self._wait_stop(), name=f"{self._consumer.name}:stop")
                await self._pull()
                while self._in_hand:
                    await self._wait_change()
                keeper.cancel()
                stopper.cancel()
        finally:
            remove_listener()
            await subscription.aclose()

    async def _wait_stop(self) -> None:
        await self._stop.wait()
        self._change.set()

    async def _pull(self) -> None:
        while not self._stop.is_set():
            if self._has_failed:
                await self._recover()
            room = self._consumer.max_in_hand - len(self._in_hand)
            if not self._num_open and room > 0:
                await self._request(room)
            if not await self._wait_change(_SILENT_S if self._num_open else None):
                self._num_open = 0

    async def _wait_change(self, within_s: float | None = None) -> bool:
        """Wait until something has happened; False if nothing did in time."""
        try:
            async with asyncio.timeout(within_s):
                await self._change.wait()
        except TimeoutError:
            return False
        self._change.clear()
        return True

    async def _request(self, room: int) -> None:
        self._num_requests += 1
        self._num_open = room
        self._opened_at = asyncio.get_running_loop().time()
        body = b'{"batch":%d,"expires":%d}' % (room, int(_EXPIRES_S * 1e9))
        await self._bus.publish(self._next, body, reply=f"{self._inbox}.{self._num_requests}")

    async def _recover(self) -> None:
        """The server ended a request before its time: it is away, or the consumer is gone."""
        self._has_failed = False
        await asyncio.sleep(_PAUSE_S)
        try:
            await self._consumer.create(self._bus)
        except TransportError as error:
            if not error.retryable:
                raise
            _log.info("consumer_retried", consumer=self._consumer.name, reason=str(error))
            self._has_failed = True

    async def _on_message(self, delivery: Delivery) -> None:
        if not delivery.reply.startswith(_ACK):
            if delivery.subject == f"{self._inbox}.{self._num_requests}":
                self._end_request()
            return
        self._num_open = max(0, self._num_open - 1)
        if not self._num_open:
            self._change.set()
        if self._stop.is_set():
            await self._settle(delivery.reply, b"-NAK")
            return
        facts = split_ack(delivery.reply.encode())
        identified = replace(
            delivery, sequence=int(facts[1]), timestamp=int(facts[3]) / 1e9, num_delivered=int(facts[0])
        )
        self._in_hand.add(delivery.reply)
        self._group.create_task(self._handle(identified), name=f"{self._consumer.name}:handle")

    def _end_request(self) -> None:
        lasted_s = asyncio.get_running_loop().time() - self._opened_at
        self._has_failed = bool(self._num_open) and lasted_s < _EXPIRES_S / 2
        self._num_open = 0
        self._change.set()

    def _on_reconnect(self) -> None:
        self._num_open = 0
        self._change.set()

    async def _handle(self, delivery: Delivery) -> None:
        try:
            settlement = await self._handler(delivery)
            again = b'-NAK {"delay":%d}' % int(_AGAIN_S * 1e9)
            await self._settle(delivery.reply, b"+ACK" if settlement is Settlement.DONE else again)
        finally:
            self._in_hand.discard(delivery.reply)
            self._change.set()

    async def _settle(self, reply: str, verdict: bytes) -> None:
        with suppress(TransportError):  # it comes again
            await self._bus.publish(reply, verdict)

    async def _keep(self) -> None:
        """Say that what is in hand is worked on."""
        while True:
            await asyncio.sleep(self._consumer.ack_wait_s / 3)
            for reply in list(self._in_hand):
                await self._settle(reply, b"+WPI")
