"""Storing a message in anyone's stream, once for each id."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from parrot_mq.bus.backoff import TryAgain, retrying
from parrot_mq.bus.base import Bus, Stored
from parrot_mq.bus.frames import MESSAGE_ID
from parrot_mq.bus.jetstream import TEMPORARY, ApiError
from parrot_mq.errors import NoResponders, PublishRejected

__all__ = ["store_identified"]

_TOTAL_S = 15.0


class _Answer(msgspec.Struct, frozen=True):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


async def store_identified(
    bus: Bus, subject: str, payload: bytes, *, message_id: str, headers: Mapping[str, str] | None = None
) -> Stored:
    """Publish to whichever stream takes the subject; retried across reconnects until it has acknowledged.

    Delivery: once for each id within the duplicate window of the stream (two minutes, unless it says otherwise).

    Raises:
        NoResponders: No stream takes the subject.
        PublishRejected: The stream refused it.
        RequestTimeout, ConnectionLost: Not acknowledged in 15 s.
        PayloadTooLarge, PermissionDenied, ConnectionClosed, InvalidName: As `Bus.request`.
    """
    all_headers = {**(headers or {}), MESSAGE_ID: message_id}

    async def attempt(timeout_s: float) -> Stored:
        reply = await bus.request(subject, payload, headers=all_headers, timeout_s=timeout_s)
        answer = _decode(reply.payload)
        if answer.error is not None:
            error = answer.error
            rejected = PublishRejected(subject=subject, err_code=error.err_code, description=error.description)
            if error.err_code in TEMPORARY:
                raise TryAgain(rejected)
            raise rejected
        if not answer.stream:  # a plain subscriber answered
            raise NoResponders(subject=subject)
        return Stored(answer.seq, not answer.duplicate)

    return await retrying(_TOTAL_S, attempt)


def _decode(payload: bytes) -> _Answer:
    try:
        return msgspec.json.decode(payload, type=_Answer)
    except msgspec.MsgspecError:
        return _Answer()
