"""A bus that is used only as long as its user may act."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from parrot_mq.bus.base import Bus, Delivery, Handler, IsLast, Stored, Subscription
from parrot_mq.errors import ConnectionClosed

__all__ = ["FencedBus"]


class FencedBus(Bus):
    """Asks before each operation whether it may still be done, and cuts the connection once it may not.

    A process can stand still for any time between two of its steps: it is stopped, its machine is, its memory is paged
    out. Whatever it wants to say when it goes on passes here first.

    Args:
        bus: The connection. It is cut and not closed; whoever opened it closes it.
        may_act: Whether its user may act now. Once it was False it is not asked again.
        reason: Why not, for the errors.
    """

    def __init__(self, bus: Bus, may_act: Callable[[], bool], *, reason: str) -> None:
        super().__init__()
        self._bus = bus
        self._may_act = may_act
        self._reason = reason
        self._has_fallen = False

    def check(self) -> None:
        """Raise `ConnectionClosed`, and cut the connection, if nothing may be done any more."""
        if self._has_fallen or not self._may_act():
            self.abort()
            raise ConnectionClosed(reason=self._reason)

    @property
    def max_payload(self) -> int:
        return self._bus.max_payload

    @property
    def inbox_prefix(self) -> str:
        return self._bus.inbox_prefix

    # -- core --------------------------------------------------------------------------------------------------------

    async def publish(
        self, subject: str, payload: bytes, *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        self.check()
        await self._bus.publish(subject, payload, headers=headers, reply=reply)

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
        is_last: IsLast | None = None,
    ) -> Delivery:
        self.check()
        return await self._bus.request(subject, payload, headers=headers, timeout_s=timeout_s, is_last=is_last)

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        self.check()
        return await self._bus.subscribe(subject, handler, queue=queue)

    def add_reconnect_listener(self, listener: Callable[[], None]) -> Callable[[], None]:
        return self._bus.add_reconnect_listener(listener)

    # -- facts -------------------------------------------------------------------------------------------------------

    async def ensure_streams(self) -> None:
        self.check()
        await self._bus.ensure_streams()

    async def publish_once(self, subject: str, payload: bytes, *, headers: Mapping[str, str] | None = None) -> Stored:
        self.check()
        return await self._bus.publish_once(subject, payload, headers=headers)

    async def get(self, stream: str, subjects: Sequence[str]) -> dict[str, Delivery]:
        self.check()
        return await self._bus.get(stream, subjects)

    async def last_sequence(self, stream: str) -> int:
        self.check()
        return await self._bus.last_sequence(stream)

    async def newest(self, stream: str, subject: str) -> Delivery | None:
        self.check()
        return await self._bus.newest(stream, subject)

    async def replace(self, subject: str, payload: bytes, *, expected_sequence: int, timeout_s: float) -> int:
        self.check()
        return await self._bus.replace(subject, payload, expected_sequence=expected_sequence, timeout_s=timeout_s)

    async def is_empty(self, stream: str, subject: str) -> bool:
        self.check()
        return await self._bus.is_empty(stream, subject)

    async def follow(self, stream: str, handler: Handler, *, after_sequence: int) -> Subscription:
        self.check()
        return await self._bus.follow(stream, handler, after_sequence=after_sequence)

    async def take(self, stream: str, handler: Handler, *, consumer: str) -> Subscription:
        self.check()
        return await self._bus.take(stream, handler, consumer=consumer)

    async def acknowledge(self, delivery: Delivery) -> None:
        self.check()
        await self._bus.acknowledge(delivery)

    async def purge(self, stream: str, subject: str) -> int:
        self.check()
        return await self._bus.purge(stream, subject)

    # -- blobs -------------------------------------------------------------------------------------------------------

    async def put_blob(self, tenant: str, data: bytes) -> str:
        self.check()
        return await self._bus.put_blob(tenant, data)

    async def get_blob(self, tenant: str, digest: str) -> bytes:
        self.check()
        return await self._bus.get_blob(tenant, digest)

    # -- life --------------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        self._has_fallen = True
        self._bus.abort()

    async def aclose(self) -> None:
        """Nothing: whoever opened the connection closes it."""
