"""Holding a work queue: one process at a time."""

from __future__ import annotations

import secrets
from collections import deque
from typing import Any

from parrot_mq.bus.backoff import Backoff
from parrot_mq.bus.base import Delivery
from parrot_mq.bus.frames import publish_frame
from parrot_mq.bus.jetstream import WORK_QUEUE_HELD
from parrot_mq.bus.pull import PullSubscription
from parrot_mq.errors import ConsumerTakenOver, ParrotError, PublishRejected

__all__ = ["TakeSubscription"]

_ACK_WAIT_S = 3600
_MAX_ACK_PENDING = 100_000
_MAX_REMEMBERED = 100_000


class TakeSubscription(PullSubscription):
    """The holder of a work queue.

    Each holder's consumer has a name of its own, `<consumer>-<random>`; a work queue takes one consumer only, so the
    server decides who holds it. Taking over deletes the consumer of the one before: its open pull is told, and neither
    its pulls nor its acknowledgements can reach the new one.

    After a lost connection the consumer is made anew, because what was on the way would come again only after
    `ack_wait`. Then all that is not acknowledged comes again; what is in hand is told apart by its sequence.

    Delivery: at least once.
    """

    _is_acknowledged = True
    consumer: str = ""

    def prepare(self, consumer: str) -> None:
        """Set which queue is taken; before `start`."""
        self.consumer = consumer
        self._in_hand: dict[int, str] = {}
        self._acknowledged: set[int] = set()
        self._acknowledged_order: deque[int] = deque()
        self._own_names: set[str] = set()

    def holds(self, delivery: Delivery) -> bool:
        """Whether one of our consumers made this delivery."""
        tokens = delivery.reply.split(".")
        return len(tokens) > 5 and (tokens[3] in self._own_names or tokens[5] in self._own_names)

    # -- acknowledgement ---------------------------------------------------------------------------------------------

    def acknowledge(self, sequence: int, reply: str) -> None:
        """Remove a message from the queue; repeated by itself if the acknowledgement is lost."""
        self._remember(sequence)
        self._send_ack(self._in_hand.pop(sequence, reply))

    def _send_ack(self, reply: str) -> None:
        self._connection.send(publish_frame(reply, "", b"", b"+ACK"))

    def _remember(self, sequence: int) -> None:
        if sequence not in self._acknowledged:
            self._acknowledged.add(sequence)
            self._acknowledged_order.append(sequence)
            if len(self._acknowledged_order) > _MAX_REMEMBERED:
                self._acknowledged.discard(self._acknowledged_order.popleft())

    def _accept(self, sequence: int, num_delivered: int, reply: str) -> bool:
        if sequence in self._acknowledged:
            self._send_ack(reply)
            return False
        is_in_hand = sequence in self._in_hand
        self._in_hand[sequence] = reply
        return not is_in_hand or num_delivered > 1

    # -- the consumer ------------------------------------------------------------------------------------------------

    async def _make_consumer(self) -> str:
        backoff = Backoff(self._jetstream.total_s)
        while True:
            await self._clear_the_way()
            name = f"{self.consumer}-{secrets.token_hex(8)}"
            self._own_names.add(name)
            try:
                await self._jetstream.create_consumer(self.stream, _settings(name))
            except PublishRejected as error:
                if error.err_code != WORK_QUEUE_HELD:
                    raise
                if self._consumer or not await backoff.pause():
                    raise self._taken_over() from None
            else:
                return name

    async def _clear_the_way(self) -> None:
        """Delete the consumer that stands there; but if we held the queue and it is another's, it was taken from us."""
        names = await self._jetstream.consumer_names(self.stream)
        if self._consumer and not self._own_names.issuperset(names):
            raise self._taken_over()
        for name in names:
            await self._jetstream.delete_consumer(self.stream, name)

    def _on_deleted(self) -> ParrotError | None:
        return self._taken_over()

    def _taken_over(self) -> ConsumerTakenOver:
        return ConsumerTakenOver(stream=self.stream, consumer=self.consumer)


def _settings(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "durable_name": name,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": _ACK_WAIT_S * 10**9,
        "max_ack_pending": _MAX_ACK_PENDING,
        "max_deliver": -1,
    }
