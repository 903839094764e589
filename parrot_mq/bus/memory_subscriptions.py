"""The subscriptions of a memory bus."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import suppress

from parrot_mq.bus.base import Handler
from parrot_mq.bus.memory_link import Link
from parrot_mq.bus.memory_server import Listener, MemoryServer
from parrot_mq.bus.memory_stream import MemoryStream
from parrot_mq.bus.pump import Pump
from parrot_mq.bus.subscription import PumpedSubscription
from parrot_mq.bus.tasks import TaskOwner
from parrot_mq.errors import ConnectionClosed, ConnectionLost, ConsumerTakenOver, ParrotError

__all__ = ["CoreListening", "Following", "MemorySubscription", "Taking"]


class MemorySubscription(PumpedSubscription):
    """Hands what arrives to a handler, in a task of its own."""

    def __init__(self, tasks: TaskOwner, handler: Handler, name: str) -> None:
        self._tasks = tasks
        self._name = name
        super().__init__(Pump(handler, tasks, name=name))

    @abstractmethod
    def _leave(self) -> None:
        """Stop to be called by the server."""

    async def _finish(self, error: ParrotError | None) -> None:
        if not self._ended.done():
            self._leave()
            self._settle(error)
        await self._pump.aclose()


class CoreListening(MemorySubscription):
    """What is published from now on."""

    def __init__(
        self, server: MemoryServer, link: Link, tasks: TaskOwner, handler: Handler, subject: str, queue: str
    ) -> None:
        super().__init__(tasks, handler, f"subscribe:{subject}")
        self._server = server
        self._listener = Listener(subject, queue, link.inward(self._pump.put, is_kept=False))
        self._link = link
        server.listen(self._listener)

    async def drain(self) -> None:
        with suppress(ConnectionLost, ConnectionClosed):
            await self._link.there()
            self._leave()
            await self._link.back()
        await self._pump.wait_idle()
        await self.aclose()

    def _leave(self) -> None:
        self._server.unlisten(self._listener)


class Following(MemorySubscription):
    """A stream from a place on."""

    def __init__(
        self, stream: MemoryStream, link: Link, tasks: TaskOwner, handler: Handler, after_sequence: int
    ) -> None:
        super().__init__(tasks, handler, f"follow:{stream.name}")
        self._stream = stream
        self._reader = link.inward(self._pump.put, is_kept=True)
        for stored in stream.after(after_sequence):
            self._reader(stored)
        stream.followers.append(self._reader)

    def _leave(self) -> None:
        self._stream.followers.remove(self._reader)


class Taking(MemorySubscription):
    """Holding a work queue."""

    def __init__(
        self, stream: MemoryStream, link: Link, tasks: TaskOwner, handler: Handler, consumer: str, holder: str
    ) -> None:
        super().__init__(tasks, handler, f"take:{stream.name}")
        self._stream = stream
        self._consumer = consumer
        self._holder = holder
        if stream.end_holder is not None:
            stream.end_holder()
        reader = link.inward(self._pump.put, is_kept=True)
        stream.holder, stream.holder_reader, stream.end_holder = holder, reader, self._on_taken_over
        for delivery in stream.for_holder():
            reader(delivery)

    def _on_taken_over(self) -> None:
        error = ConsumerTakenOver(stream=self._stream.name, consumer=self._consumer)
        self._leave()
        self._settle(error)
        self._tasks.start(self._finish(error), name=f"{self._name}:end")

    def _leave(self) -> None:
        if self._stream.holder == self._holder:
            self._stream.holder, self._stream.holder_reader, self._stream.end_holder = "", None, None
