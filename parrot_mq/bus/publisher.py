"""Storing a fact: again and again until the server has acknowledged it, and never twice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from parrot_mq.bus.backoff import ATTEMPT_S, Backoff
from parrot_mq.bus.base import Delivery, Stored
from parrot_mq.bus.exchange import Exchanges
from parrot_mq.bus.facts import FactReader
from parrot_mq.bus.frames import expectation_block
from parrot_mq.bus.jetstream import SUBJECT_WRITTEN, TEMPORARY, WRONG_LAST_SEQUENCE, ApiError
from parrot_mq.errors import (
    ConnectionLost,
    NoResponders,
    ParrotError,
    PublishRejected,
    RecordChanged,
    RequestTimeout,
    SubjectTaken,
)
from parrot_mq.messages.subjects import HEADER_BLOB, HEADER_STATUS

__all__ = ["Publisher", "is_same_fact"]


class _PubAck(msgspec.Struct, frozen=True):
    stream: str = ""
    seq: int = 0
    error: ApiError | None = None


_decoder = msgspec.json.Decoder(_PubAck)


class Publisher:
    """Stores facts, at most `max_in_flight` at a time."""

    def __init__(self, exchanges: Exchanges, facts: FactReader, *, max_in_flight: int, timeout_s: float) -> None:
        self._exchanges = exchanges
        self._facts = facts
        self._slots = asyncio.Semaphore(max_in_flight)
        self._timeout_s = timeout_s

    async def publish_once(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None, block: bytes
    ) -> Stored:
        """See `Bus.publish_once`."""
        async with self._slots:
            backoff = Backoff(self._timeout_s)
            while True:
                try:
                    stored = await self._attempt(subject, payload, headers, block, backoff.remaining_s)
                    if stored is not None:
                        return stored
                    failed: ParrotError = RequestTimeout(subject=subject, timeout_s=self._timeout_s)
                except (NoResponders, ConnectionLost, RequestTimeout) as error:
                    failed = error
                if not await backoff.pause():
                    raise self._given_up(subject, failed)

    async def _attempt(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None, block: bytes, remaining_s: float
    ) -> Stored | None:
        """One publish; None if it has to be repeated."""
        timeout_s = min(ATTEMPT_S, remaining_s)
        ack = await self._ask(subject, payload, block, timeout_s)
        if ack.error is None:
            return Stored(ack.seq, True)
        if ack.error.err_code in TEMPORARY:
            return None
        if ack.error.err_code != SUBJECT_WRITTEN:
            raise PublishRejected(subject=subject, err_code=ack.error.err_code, description=ack.error.description)
        standing = await self._facts.get_one(ack.stream, subject)
        if standing is None:  # removed meanwhile, or the replica that answered is behind
            return None
        if not is_same_fact(standing, payload, headers or {}):
            raise SubjectTaken(subject=subject)
        return Stored(standing.sequence, False)

    async def replace(self, subject: str, payload: bytes, *, expected_sequence: int, timeout_s: float) -> int:
        """See `Bus.replace`."""
        ack = await self._ask(subject, payload, expectation_block(expected_sequence), timeout_s)
        if ack.error is None:
            return ack.seq
        if ack.error.err_code == WRONG_LAST_SEQUENCE:
            raise RecordChanged(subject=subject, expected_sequence=expected_sequence)
        raise PublishRejected(subject=subject, err_code=ack.error.err_code, description=ack.error.description)

    async def _ask(self, subject: str, payload: bytes, block: bytes, timeout_s: float) -> _PubAck:
        """One publish, and what the stream says to it."""
        reply = await self._exchanges.request(subject, payload, block, timeout_s=timeout_s)
        try:
            ack = _decoder.decode(reply.payload)
        except msgspec.DecodeError:
            ack = _PubAck()
        if ack.error is None and not ack.stream:  # a plain subscriber answered, not a stream
            raise NoResponders(subject=subject)
        return ack

    def _given_up(self, subject: str, error: ParrotError) -> ParrotError:
        if isinstance(error, NoResponders):
            return PublishRejected(subject=subject, err_code=503, description="no stream takes this subject")
        return RequestTimeout(subject=subject, timeout_s=self._timeout_s)


def is_same_fact(standing: Delivery, payload: bytes, headers: Mapping[str, str]) -> bool:
    """Whether what stands there says the same: payload, and the headers that give it another meaning."""
    return standing.payload == payload and all(
        standing.headers.get(name) == headers.get(name) for name in (HEADER_STATUS, HEADER_BLOB)
    )
