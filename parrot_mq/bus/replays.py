"""The text so far of a variable that is being generated. Tokens are not stored: the worker that has them is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import structlog

from parrot_mq.bus.base import Bus, Delivery
from parrot_mq.errors import CodecError
from parrot_mq.messages import (
    TokenDelta,
    TokenReplay,
    VariableAddress,
    decode,
    encode_error,
    encode_json,
    is_inbox,
    parse_replay,
    replay_subject,
    stream_subject,
)

__all__ = ["answer_replay", "request_replay"]

_log = structlog.get_logger(__name__)

_MAX_CHARACTER_BYTES = 6  # of one character in JSON, such as \u0000
_OTHER_BYTES = 2048  # of a delta without its text, with its headers


async def request_replay(bus: Bus, address: VariableAddress, *, offset: int = 0, reply: str = "") -> None:
    """Ask for the text of a variable from `offset` (characters) on; who does not generate it keeps silent.

    Delivery: at most once. The answer, deltas, comes on the subject `reply`, or without one where all deltas come.

    Raises:
        ConnectionClosed, InvalidName: As for `Bus.publish`.
    """
    await bus.publish(replay_subject(*address), encode_json(TokenReplay(offset=offset)), reply=reply)


async def answer_replay(
    bus: Bus, request: Delivery, *, attempt: int, text: str, headers: Mapping[str, str] | None = None
) -> None:
    """Send the text so far from where the request says on: several deltas if one message cannot hold it.

    There is always an answer, so that who asks knows how far the text is: beyond its end, an empty delta. A request
    that names no inbox is answered where all deltas come; one that cannot be read is answered with the error, or not.

    Args:
        attempt: Which attempt writes the text.
        text: All that was generated, or more than that; whatever follows it has not been published yet.
        headers: What the deltas of this generation carry.

    Raises:
        ConnectionClosed, InvalidName: As for `Bus.publish`.
    """
    try:
        offset = decode(request.payload, TokenReplay, request.headers).offset if request.payload else 0
    except CodecError as error:
        _log.info("replay_refused", subject=request.subject, reason=error.message)
        if is_inbox(request.reply):
            payload, error_headers = encode_error(error)
            await bus.publish(request.reply, payload, headers=error_headers)
        return
    subject = request.reply if is_inbox(request.reply) else stream_subject(*parse_replay(request.subject))
    for begin, part in _parts(text, min(offset, len(text)), (bus.max_payload - _OTHER_BYTES) // _MAX_CHARACTER_BYTES):
        delta = TokenDelta(attempt=attempt, offset=begin, text=part)
        await bus.publish(subject, encode_json(delta), headers=headers)


def _parts(text: str, begin: int, size: int) -> Iterator[tuple[int, str]]:
    """The text from `begin` on in pieces of at most `size` characters, at least one, each with its offset."""
    size = max(size, 1)
    yield begin, text[begin : begin + size]
    for offset in range(begin + size, len(text), size):
        yield offset, text[offset : offset + size]
