"""Actors across processes: a subscription in front of a mailbox, and a reference that publishes to it.

A message is a core NATS message on `actor_subject(node, name)`; one with a reply subject is an ask. An answer is an
encoded message, an empty payload for None, or an `ErrorInfo` marked by `Pmq-Status: error`.

A message larger than the server takes travels as a claim check: its bytes are a blob of the tenant `pmq-sys`, the
message is the `BlobRef`, marked by `Pmq-Blob`. The receiver fetches the blob before it takes the next message of the
same actor, so the order of messages is kept; other actors do not wait.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from parrot_mq.actors.packing import Packed, pack, unpack
from parrot_mq.actors.ref import Ask, Ref
from parrot_mq.errors import (
    ActorFailed,
    ActorNotFound,
    ActorStopped,
    AskTimeout,
    MalformedMessage,
    NoResponders,
    ParrotError,
    RequestTimeout,
)
from parrot_mq.messages import (
    HEADER_STATUS,
    STATUS_ERROR,
    ErrorInfo,
    Message,
    actor_subject,
    decode,
    encode_error,
)
from parrot_mq.observability.logging import get_logger

if TYPE_CHECKING:
    from parrot_mq.actors.cell import Cell
    from parrot_mq.actors.runtime import Runtime
    from parrot_mq.bus.base import Bus, Delivery, Subscription

__all__ = ["Endpoint", "RemoteRef"]

log = get_logger(__name__)


class RemoteRef(Ref):
    """Reaches an actor of any process on the bus, this one included.

    Example:
        >>> class Registry(Actor):
        ...     async def receive(self, message: CoordinatorStarted) -> ErrorInfo:
        ...         return ErrorInfo(code="demo", message=f"{message.node} is not welcome")
        >>> async def main() -> None:
        ...     async with MemoryBus(MemoryServer()) as bus, ActorSystem("here", bus=bus) as system:
        ...         await system.spawn(Registry, name="registry", accepts=CoordinatorStarted)
        ...         registry = RemoteRef(bus, "here/registry", answers=ErrorInfo)
        ...         answer = await registry.ask(CoordinatorStarted(node="there"), timeout_s=1)
        ...         print(answer.message)
        >>> asyncio.run(main())
        there is not welcome
    """

    def __init__(self, bus: Bus, address: str, *, answers: Any = None) -> None:
        """Make a reference; nothing is sent.

        Args:
            address: `node/name`.
            answers: The message type, or a union of them, that the actor answers with; None: it answers with None.

        Raises:
            InvalidName: The address is not of that form.
        """
        node, _, name = address.partition("/")
        self.subject = actor_subject(node, name)
        self.address = address
        self._bus = bus
        self._answers = answers

    async def tell(self, message: Message) -> None:
        """Publish a message to the actor.

        Delivery: at most once. Whether somebody listens is not known.
        Ordering: messages of one sender arrive in the order in which it sent them.

        Raises:
            TransportError: As `Bus.publish`.
        """
        payload, headers = await pack(self._bus, message)
        await self._bus.publish(self.subject, payload, headers=headers or None)

    async def ask(self, message: Message, *, timeout_s: float) -> Any:
        """Send a message and wait for what the actor's `receive` returns.

        Delivery: at most once.
        Cancel: the message may have been sent.

        Raises:
            ActorNotFound: Nobody listens at the address.
            AskTimeout: No answer came in time.
            ActorStopped: The actor stopped before it answered.
            ActorFailed: The actor failed while it handled the message.
            ParrotError: What the actor raised as its answer, rebuilt as the same class.
            TransportError: As `Bus.request`.
        """
        try:
            async with asyncio.timeout(timeout_s) as limit:
                answer = await self._request(message, timeout_s)
                return await self._unpack_answer(answer)
        except TimeoutError as error:
            if not limit.expired():  # a TimeoutError that is the actor's answer
                raise
            raise AskTimeout(address=self.address, timeout_s=timeout_s) from error

    async def _request(self, message: Message, timeout_s: float) -> Delivery:
        payload, headers = await pack(self._bus, message)
        try:
            return await self._bus.request(self.subject, payload, headers=headers or None, timeout_s=timeout_s)
        except NoResponders as error:
            raise ActorNotFound(address=self.address) from error
        except RequestTimeout as error:
            raise AskTimeout(address=self.address, timeout_s=timeout_s) from error

    async def _unpack_answer(self, answer: Delivery) -> Any:
        if answer.headers.get(HEADER_STATUS) == STATUS_ERROR:
            raise decode(answer.payload, ErrorInfo, answer.headers).to_error()
        if not answer.payload:
            return None
        if self._answers is None:
            expected = "Expected no answer; name what the actor answers with: answers=…"
            raise MalformedMessage(message_type="answer", path="$", expected=expected)
        return await unpack(self._bus, answer, self._answers)


class Endpoint:
    """Puts what arrives on an actor's subject into its mailbox, and publishes its answers.

    A full mailbox holds up the subscription, and so what the client library buffers for it; an actor that works on an
    ask does not. Nothing that arrives ends the subscription: what cannot be read is answered with the error, or logged.
    """

    def __init__(self, runtime: Runtime, bus: Bus, cell: Cell) -> None:
        self._runtime = runtime
        self._bus = bus
        self._cell = cell
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        """Subscribe; returns when the server knows.

        Raises:
            TransportError: As `Bus.subscribe`.
        """
        subject = actor_subject(self._runtime.node, self._cell.spec.name)
        self._subscription = await self._bus.subscribe(subject, self._handle)
        self._runtime.create_task(self._watch(self._subscription), name=f"{self._cell.address}:subscription")

    async def close(self) -> None:
        """Unsubscribe. May be called twice."""
        if self._subscription is not None:
            try:
                await self._subscription.aclose()
            except ParrotError as error:
                log.warning("actor_unsubscribe_failed", actor=self._cell.address, error=str(error))

    async def _watch(self, subscription: Subscription) -> None:
        try:
            await subscription.wait_closed()
        except ParrotError as error:
            log.error("actor_unreachable", actor=self._cell.address, error=str(error))

    async def _handle(self, delivery: Delivery) -> None:
        try:
            message = await unpack(self._bus, delivery, self._cell.spec.accepts)
        except Exception as error:
            await self._refuse(delivery, error)
            return
        with suppress(ActorStopped):
            await self._put(message, delivery.reply)

    async def _put(self, message: Message, reply: str) -> None:
        """Put a tell or an ask into the mailbox; an ask is answered whatever becomes of it."""
        if not reply:
            await self._cell.mailbox.put(message)
            return
        ask = Ask(message)
        # One task for each ask in the mailbox (and the one that waits for room), so their number is bounded by it.
        self._runtime.create_task(self._answer(reply, ask), name=f"{self._cell.address}:answer")
        try:
            await self._cell.mailbox.put(ask)
        except BaseException:  # also when the end of the subscription cancels it
            ask.fail(ActorStopped(address=self._cell.address))
            raise

    async def _answer(self, reply: str, ask: Ask) -> None:
        """Publish the answer to an ask when the actor has given it."""
        try:
            payload, headers = await self._pack_answer(await ask.future)
        except Exception as error:
            payload, headers = encode_error(error)
        await self._publish(reply, payload, headers)

    async def _pack_answer(self, answer: object) -> Packed:
        if answer is None:
            return b"", {}
        if not isinstance(answer, Message):
            cause = f"it answered with {type(answer).__name__}, and only a Message or None crosses processes"
            raise ActorFailed(address=self._cell.address, cause=cause)
        return await pack(self._bus, answer)

    async def _refuse(self, delivery: Delivery, error: Exception) -> None:
        log.warning(
            "actor_message_refused", actor=self._cell.address, error=str(error), size_bytes=len(delivery.payload)
        )
        if delivery.reply:
            await self._publish(delivery.reply, *encode_error(error))

    async def _publish(self, reply: str, payload: bytes, headers: dict[str, str]) -> None:
        try:
            await self._bus.publish(reply, payload, headers=headers or None)
        except Exception as error:  # the asker will time out
            log.warning("actor_answer_lost", actor=self._cell.address, error=str(error))
