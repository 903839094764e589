"""The bus in memory: the twin of `NatsBus` for simulation and for users' tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from parrot_mq.bus.backoff import Backoff
from parrot_mq.bus.base import NO_HEADERS, Bus, Delivery, Handler, Headers, IsLast, Stored, Subscription
from parrot_mq.bus.blobs import get_blob, put_blob
from parrot_mq.bus.frames import message_block
from parrot_mq.bus.jetstream import STREAM_NOT_FOUND
from parrot_mq.bus.matching import check_filter, check_subject
from parrot_mq.bus.memory_link import Link
from parrot_mq.bus.memory_server import FaultPolicy, Listener, MemoryServer
from parrot_mq.bus.memory_stream import MemoryStream
from parrot_mq.bus.memory_subscriptions import CoreListening, Following, MemorySubscription, Taking
from parrot_mq.bus.publisher import is_same_fact
from parrot_mq.bus.tasks import TaskOwner
from parrot_mq.errors import (
    ConnectionClosed,
    ConnectionLost,
    NoResponders,
    ParrotError,
    PublishRejected,
    RecordChanged,
    RequestTimeout,
    SubjectTaken,
)

__all__ = ["FaultPolicy", "MemoryBus", "MemoryServer"]


_NEVER = float("inf")


class MemoryBus(Bus):
    """One connection to a `MemoryServer`.

    Every operation that asks a real server something lets other tasks run first, and no delivery runs in the stack of
    the publisher. Time is the event loop's, so virtual time works.

    Args:
        server: What it is connected to.
        link: The way there; a perfect one if none is given.
        publish_timeout_s: How long facts wait for a server that is away.
    """

    def __init__(self, server: MemoryServer, *, link: Link | None = None, publish_timeout_s: float = 15.0) -> None:
        super().__init__()
        self.server = server
        self.link = link or Link()
        self.link.on_change(self._on_server)
        self._publish_timeout_s = publish_timeout_s
        self._tasks = TaskOwner()
        self._subscriptions: dict[MemorySubscription, None] = {}
        self._waiting: dict[asyncio.Future[Delivery], str] = {}
        self._is_closed = False
        server.connections.append(self._on_server)

    @property
    def max_payload(self) -> int:
        return self.server.max_payload

    # -- core --------------------------------------------------------------------------------------------------------

    async def publish(
        self, subject: str, payload: bytes, *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        message = self._message(subject, payload, headers, reply)
        if reply:
            check_subject(reply)
        self.link.send(lambda: self.server.publish(message))

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
        is_last: IsLast | None = None,
    ) -> Delivery:
        inbox = self.server.fresh_name("_INBOX.memory")
        message = self._message(subject, payload, headers, inbox)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Delivery] = loop.create_future()
        deliver = self.link.inward(lambda found: _feed(answer, found, is_last), is_kept=False)
        listener = Listener(inbox, "", deliver)
        self.server.listen(listener)
        self._waiting[answer] = subject
        timer = loop.call_later(timeout_s, _fail, answer, RequestTimeout(subject=subject, timeout_s=timeout_s))
        try:
            await asyncio.sleep(0)
            if not self._is_connected:
                _fail(answer, ConnectionLost(subject=subject))
            else:
                self.link.send(lambda: self._ask(message, answer))
            return await answer
        finally:
            timer.cancel()
            self.server.unlisten(listener)
            del self._waiting[answer]
            if answer.done() and not answer.cancelled():
                answer.exception()

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        check_filter(subject)
        if queue:
            check_subject(queue)
        async with self._at_server():
            return self._keep(CoreListening(self.server, self.link, self._tasks, handler, subject, queue))

    def _ask(self, message: Delivery, answer: asyncio.Future[Delivery]) -> None:
        """What a request does at the server; that nobody listens there travels back."""
        if self.server.publish(message):
            return
        error = NoResponders(subject=message.subject)
        self.link.inward(lambda _: _fail(answer, error), is_kept=False)(message)

    # -- facts -------------------------------------------------------------------------------------------------------

    async def ensure_streams(self) -> None:
        async with self._at_server():
            self.server.ensure_streams()

    async def publish_once(self, subject: str, payload: bytes, *, headers: Mapping[str, str] | None = None) -> Stored:
        message = self._message(subject, payload, headers, "")
        async with self._at_server():
            stream = await self._stream_of(subject)
            stored = self.server.store(stream, message)
            if stored is not None:
                return Stored(stored.sequence, True)
            standing = stream.last(subject)
            assert standing is not None
            if not is_same_fact(standing, payload, headers or {}):
                raise SubjectTaken(subject=subject)
            return Stored(standing.sequence, False)

    async def get(self, stream: str, subjects: Sequence[str]) -> dict[str, Delivery]:
        wanted = [check_subject(subject) for subject in subjects]
        async with self._at_server():
            kept = self._stream(stream)
            return {subject: found for subject in wanted if (found := kept.last(subject)) is not None}

    async def last_sequence(self, stream: str) -> int:
        async with self._at_server():
            return self._stream(stream).last_sequence

    async def newest(self, stream: str, subject: str) -> Delivery | None:
        check_filter(subject)
        async with self._at_server():
            return self._stream(stream).newest(subject)

    async def replace(self, subject: str, payload: bytes, *, expected_sequence: int, timeout_s: float) -> int:
        message = self._message(subject, payload, None, "")
        try:
            async with asyncio.timeout(timeout_s), self._at_server():
                return self._replace(message, expected_sequence)
        except TimeoutError:
            raise RequestTimeout(subject=subject, timeout_s=timeout_s) from None

    def _replace(self, message: Delivery, expected_sequence: int) -> int:
        subject = message.subject
        stream = self.server.stream_of(subject)
        if stream is None:
            raise NoResponders(subject=subject)
        self.server.route(message)  # as a real one does, whether it is stored or not
        standing = stream.last(subject)
        if (standing.sequence if standing else 0) != expected_sequence:
            raise RecordChanged(subject=subject, expected_sequence=expected_sequence)
        stored = self.server.store(stream, message)
        assert stored is not None
        return stored.sequence

    async def is_empty(self, stream: str, subject: str) -> bool:
        check_filter(subject)
        async with self._at_server():
            return not self._stream(stream).holds(subject)

    async def follow(self, stream: str, handler: Handler, *, after_sequence: int) -> Subscription:
        async with self._at_server():
            kept = self._stream(stream)
            return self._keep(Following(kept, self.link, self._tasks, handler, after_sequence))

    async def take(self, stream: str, handler: Handler, *, consumer: str) -> Subscription:
        async with self._at_server():
            kept = self._stream(stream)
            holder = self.server.fresh_name(consumer)
            return self._keep(Taking(kept, self.link, self._tasks, handler, consumer, holder))

    async def acknowledge(self, delivery: Delivery) -> None:
        self._check_open()
        tokens = delivery.reply.split(".")
        stream = self.server.streams.get(tokens[2]) if len(tokens) > 3 else None
        if stream is not None:
            asyncio.get_running_loop().call_soon(
                lambda: self.link.send(lambda: stream.settle(delivery.sequence, tokens[3]), is_kept=True)
            )

    async def purge(self, stream: str, subject: str) -> int:
        check_filter(subject)
        async with self._at_server():
            return self._stream(stream).purge(subject)

    # -- blobs -------------------------------------------------------------------------------------------------------

    async def put_blob(self, tenant: str, data: bytes) -> str:
        return await put_blob(self, tenant, data, now=self.server.clock.now(), max_age_s=_NEVER)

    async def get_blob(self, tenant: str, digest: str) -> bytes:
        return await get_blob(self, tenant, digest)

    # -- life --------------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self.server.connections.remove(self._on_server)
            self.link.close()
            for answer in list(self._waiting):
                _fail(answer, ConnectionClosed())

    async def aclose(self) -> None:
        self.abort()
        for subscription in list(self._subscriptions):
            await subscription.close_with(ConnectionClosed())
        await self._tasks.aclose()

    @property
    def _is_connected(self) -> bool:
        return self.server.is_up and self.link.is_up

    def _on_server(self, is_up: bool) -> None:
        """The server, or the way to it, went away or came back."""
        if self._is_closed:
            return
        if not is_up:
            for answer, subject in list(self._waiting.items()):
                _fail(answer, ConnectionLost(subject=subject))
        elif self._is_connected:
            for listener in list(self._reconnect_listeners):
                asyncio.get_running_loop().call_soon(listener)

    def _keep(self, subscription: MemorySubscription) -> MemorySubscription:
        self._subscriptions[subscription] = None
        subscription.on_end(lambda: self._subscriptions.pop(subscription, None))
        return subscription

    def _message(self, subject: str, payload: bytes, headers: Mapping[str, str] | None, reply: str) -> Delivery:
        message_block(subject, payload, headers, limit_bytes=self.max_payload)
        self._check_open()
        kept = Headers({name: value.strip() for name, value in headers.items()}) if headers else NO_HEADERS
        return Delivery(subject, payload, kept, reply)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ConnectionClosed

    @asynccontextmanager
    async def _at_server(self) -> AsyncIterator[None]:
        """Travel to the server, do what is to be done there, and travel back with what came of it."""
        await self._turn()
        try:
            yield
        except ParrotError:
            await self._back()
            raise
        await self._back()

    async def _turn(self) -> None:
        """The way to the server: others run, and a server that is away is waited for."""
        self._check_open()
        await asyncio.sleep(0)
        backoff = Backoff(self._publish_timeout_s)
        while not await self._reach_server():
            if not await backoff.pause():
                raise RequestTimeout(subject="the server", timeout_s=self._publish_timeout_s)
        self._check_open()

    async def _reach_server(self) -> bool:
        if not self._is_connected:
            return False
        try:
            await self.link.there()
        except ConnectionLost:
            return False
        return self.server.is_up

    async def _back(self) -> None:
        """The way back; an answer that is lost with the connection is fetched again."""
        try:
            await self.link.back()
        except ConnectionLost:
            await self._turn()

    def _stream(self, name: str) -> MemoryStream:
        if name not in self.server.streams:
            raise PublishRejected(subject=name, err_code=STREAM_NOT_FOUND, description="stream not found")
        return self.server.streams[name]

    async def _stream_of(self, subject: str) -> MemoryStream:
        """The stream that takes a subject; waited for as a real server's election is."""
        backoff = Backoff(self._publish_timeout_s)
        while (stream := self.server.stream_of(subject)) is None:
            if not await backoff.pause():
                raise PublishRejected(subject=subject, err_code=503, description="no stream takes this subject")
            self._check_open()
        return stream


def _feed(answer: asyncio.Future[Delivery], found: Delivery, is_last: IsLast | None) -> None:
    """One answer has come."""
    if answer.done():
        return
    try:
        if is_last is None or is_last(found):
            answer.set_result(found)
    except Exception as error:
        answer.set_exception(error)


def _fail(answer: asyncio.Future[Delivery], error: ParrotError) -> None:
    if not answer.done():
        answer.set_exception(error)
