"""The bus over NATS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Self

import structlog

from parrot_mq.bus.base import Bus, Delivery, Handler, IsLast, Stored, Subscription
from parrot_mq.bus.blobs import get_blob, put_blob
from parrot_mq.bus.config import BusConfig
from parrot_mq.bus.connection import Connection, call_all
from parrot_mq.bus.exchange import Exchanges
from parrot_mq.bus.facts import FactReader
from parrot_mq.bus.follow import FollowSubscription
from parrot_mq.bus.frames import core_delivery, message_block, publish_frame
from parrot_mq.bus.jetstream import JetStream
from parrot_mq.bus.listen import CoreSubscription
from parrot_mq.bus.matching import check_filter, check_subject
from parrot_mq.bus.publisher import Publisher
from parrot_mq.bus.pull import PullSubscription
from parrot_mq.bus.streams import check_version, ensure_streams
from parrot_mq.bus.take import TakeSubscription
from parrot_mq.bus.tasks import TaskOwner
from parrot_mq.errors import ConnectionClosed, TransportError

__all__ = ["NatsBus"]

_log = structlog.get_logger(__name__)


class NatsBus(Bus):
    """One connection to a NATS server or cluster; make it with `parrot_mq.bus.connect`."""

    def __init__(self, config: BusConfig) -> None:
        super().__init__()
        self.config = config
        self._tasks = TaskOwner()
        self._connection = Connection(config, self._tasks)
        self._exchanges = Exchanges(self._connection)
        self._jetstream = JetStream(self._exchanges, total_s=config.publish_timeout_s)
        self._facts = FactReader(self._jetstream)
        self._publisher = Publisher(
            self._exchanges, self._facts, max_in_flight=config.max_in_flight, timeout_s=config.publish_timeout_s
        )
        self._is_stream_owner = False
        self._closing = asyncio.Lock()
        self._subscriptions: dict[CoreSubscription | PullSubscription, None] = {}

    @classmethod
    async def open(cls, config: BusConfig) -> Self:
        """Connect; see `parrot_mq.bus.connect`."""
        bus = cls(config)
        try:
            await bus._connection.open()
            await bus._exchanges.open()
        except BaseException:
            await bus.aclose()
            raise
        bus._connection.on_restored.append(bus._on_restored)
        return bus

    @property
    def max_payload(self) -> int:
        return self._connection.max_payload

    @property
    def inbox_prefix(self) -> str:
        return self.config.inbox_prefix

    @property
    def server_version(self) -> str:
        """Version of the server, as it announced."""
        return self._connection.server_version

    # -- core --------------------------------------------------------------------------------------------------------

    async def publish(
        self, subject: str, payload: bytes, *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        block = self._check_message(subject, payload, headers)
        if reply:
            check_subject(reply)
        await self._connection.send_or_hold(publish_frame(subject, reply, block, payload))

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
        is_last: IsLast | None = None,
    ) -> Delivery:
        block = self._check_message(subject, payload, headers)
        ends = None if is_last is None else lambda reply: is_last(core_delivery(*reply))
        return core_delivery(*await self._exchanges.request(subject, payload, block, timeout_s=timeout_s, is_last=ends))

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        check_filter(subject)
        if queue:
            check_subject(queue)
        self._check_open()
        subscription = CoreSubscription(self._connection, self._tasks, subject, queue, handler)
        await subscription.start()
        self._keep(subscription)
        return subscription

    # -- facts -------------------------------------------------------------------------------------------------------

    async def ensure_streams(self) -> None:
        check_version(self._connection.server_version)
        await ensure_streams(self._jetstream, self.config)
        self._is_stream_owner = True

    async def publish_once(self, subject: str, payload: bytes, *, headers: Mapping[str, str] | None = None) -> Stored:
        block = self._check_message(subject, payload, headers)
        return await self._publisher.publish_once(subject, payload, headers, block)

    async def get(self, stream: str, subjects: Sequence[str]) -> dict[str, Delivery]:
        return await self._facts.get(stream, [check_subject(subject) for subject in subjects])

    async def last_sequence(self, stream: str) -> int:
        return (await self._jetstream.stream_info(stream)).state.last_seq

    async def newest(self, stream: str, subject: str) -> Delivery | None:
        return await self._facts.newest(stream, check_filter(subject))

    async def replace(self, subject: str, payload: bytes, *, expected_sequence: int, timeout_s: float) -> int:
        self._check_message(subject, payload, None)
        return await self._publisher.replace(subject, payload, expected_sequence=expected_sequence, timeout_s=timeout_s)

    async def is_empty(self, stream: str, subject: str) -> bool:
        return await self._facts.is_empty(stream, check_filter(subject))

    async def follow(self, stream: str, handler: Handler, *, after_sequence: int) -> Subscription:
        self._check_open()
        subscription = FollowSubscription(
            self._connection, self._jetstream, self._tasks, stream, handler, f"follow:{stream}"
        )
        subscription.last_sequence = after_sequence
        await subscription.start()
        self._keep(subscription)
        return subscription

    async def take(self, stream: str, handler: Handler, *, consumer: str) -> Subscription:
        self._check_open()
        subscription = TakeSubscription(
            self._connection, self._jetstream, self._tasks, stream, handler, f"take:{stream}"
        )
        subscription.prepare(consumer)
        await subscription.start()
        self._keep(subscription)
        return subscription

    async def acknowledge(self, delivery: Delivery) -> None:
        self._check_open()
        for subscription in self._subscriptions:
            if isinstance(subscription, TakeSubscription) and subscription.holds(delivery):
                subscription.acknowledge(delivery.sequence, delivery.reply)
                return
        await self._connection.send_or_hold(publish_frame(delivery.reply, "", b"", b"+ACK"))

    async def purge(self, stream: str, subject: str) -> int:
        return await self._jetstream.purge(stream, check_filter(subject))

    # -- blobs -------------------------------------------------------------------------------------------------------

    async def put_blob(self, tenant: str, data: bytes) -> str:
        return await put_blob(self, tenant, data, now=time.time(), max_age_s=self.config.max_age_s)

    async def get_blob(self, tenant: str, digest: str) -> bytes:
        return await get_blob(self, tenant, digest)

    # -- life --------------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        self._connection.abort()
        self._exchanges.close()

    async def aclose(self) -> None:
        async with self._closing:  # a second caller waits for the first, which may be one of our own handlers
            for subscription in list(self._subscriptions):
                await subscription.close_with(ConnectionClosed())
            await self._connection.aclose()
            self._exchanges.close()
            await self._tasks.aclose()

    def _keep(self, subscription: CoreSubscription | PullSubscription) -> None:
        self._subscriptions[subscription] = None
        subscription.on_end(lambda: self._subscriptions.pop(subscription, None))

    def _on_restored(self) -> None:
        if self._is_stream_owner:
            self._tasks.start(self._ensure_streams_again(), name="bus:streams")
        call_all(self._reconnect_listeners)

    async def _ensure_streams_again(self) -> None:
        """Streams in memory are gone after a restart of the server."""
        try:
            await ensure_streams(self._jetstream, self.config)
        except ConnectionClosed:
            return
        except TransportError as error:
            _log.warning("streams_not_ensured", reason=str(error))

    def _check_message(self, subject: str, payload: bytes, headers: Mapping[str, str] | None) -> bytes:
        """Refuse what the server would answer by closing the connection; returns the header block."""
        block = message_block(subject, payload, headers, limit_bytes=self._connection.max_payload)
        self._check_open()
        return block

    def _check_open(self) -> None:
        if self._connection.is_closed:
            raise ConnectionClosed
