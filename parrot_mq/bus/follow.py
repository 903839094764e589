"""Reading a stream from a place on, in order, each message once."""

from __future__ import annotations

import secrets
from typing import Any

import structlog

from parrot_mq.bus.frames import publish_frame
from parrot_mq.bus.pull import PullSubscription

__all__ = ["FollowSubscription"]

_log = structlog.get_logger(__name__)
_FORGOTTEN_AFTER_S = 30


class FollowSubscription(PullSubscription):
    """A reader that keeps its own place: its consumers are throw-away.

    Ordering: by sequence.
    Delivery: each message after the start once, in this process.
    """

    last_sequence: int = 0

    def _accept(self, sequence: int, num_delivered: int, reply: str) -> bool:
        if sequence <= self.last_sequence:
            return False
        self.last_sequence = sequence
        return True

    async def _make_consumer(self) -> str:
        if self._consumer:
            await self._start_over_if_stream_is_new()
        config: dict[str, Any] = {
            "name": f"follow-{secrets.token_hex(8)}",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.last_sequence + 1,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _FORGOTTEN_AFTER_S * 10**9,
        }
        return (await self._jetstream.create_consumer(self.stream, config)).name

    async def _start_over_if_stream_is_new(self) -> None:
        """A stream in memory is empty after a restart and counts from 1 again."""
        last = (await self._jetstream.stream_info(self.stream)).state.last_seq
        if last < self.last_sequence:
            _log.warning("stream_restarted", stream=self.stream, last_sequence=last, had=self.last_sequence)
            self.last_sequence = 0

    def _drop_consumer(self) -> None:
        if self._consumer:
            subject = f"$JS.API.CONSUMER.DELETE.{self.stream}.{self._consumer}"
            self._connection.send(publish_frame(subject, "", b"", b""))
