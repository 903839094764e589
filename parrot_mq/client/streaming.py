"""A variable in pieces, while it is generated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from parrot_mq.bus import Bus, Delivery, fetch_text
from parrot_mq.errors import CodecError, DeadlineExceeded, GenerationAborted
from parrot_mq.messages import TokenDelta, Value, decode, stream_subject
from parrot_mq.types import TextPiece

__all__ = ["stream_text"]

Item = TokenDelta | None
"""A delta, or None: the value is there."""


async def stream_text(
    bus: Bus, tenant: str, session: str, variable: str, value: asyncio.Future[Value], timeout_s: float
) -> AsyncGenerator[TextPiece, None]:
    """Yield new text as it is generated, and in the end what is missing; joined, the pieces are the value.

    Deltas are never stored, so some may be missed: then the rest comes with the value, without log probabilities.

    Raises:
        DeadlineExceeded: The value was not complete within `timeout_s` seconds.
        GenerationAborted: Another attempt wrote another text than the one that was yielded so far.
        ParrotError: The variable failed; the error says why.
    """
    items: asyncio.Queue[Item] = asyncio.Queue()

    def on_value(_: asyncio.Future[Value]) -> None:
        items.put_nowait(None)

    value.add_done_callback(on_value)
    subject = stream_subject(tenant, session, variable)
    subscription = await bus.subscribe(subject, lambda delivery: _enqueue(items, delivery))
    yielded = ""
    ends_at = asyncio.get_running_loop().time() + timeout_s
    try:
        while (delta := await _next(items, ends_at, variable, timeout_s)) is not None:
            piece = _new_text(delta, len(yielded))
            if piece:
                yielded += piece
                yield TextPiece(piece, delta.logprobs)
    finally:
        value.remove_done_callback(on_value)
        await subscription.aclose()
    text = await fetch_text(bus, tenant, value.result())
    if not text.startswith(yielded):
        raise GenerationAborted("another attempt wrote another text; read the variable with `await`", variable=variable)
    if len(text) > len(yielded):
        yield TextPiece(text[len(yielded) :])


async def _enqueue(items: asyncio.Queue[Item], delivery: Delivery) -> None:
    try:
        items.put_nowait(decode(delivery.payload, TokenDelta, delivery.headers))
    except CodecError:
        return  # somebody else's bytes; the value is what counts


async def _next(items: asyncio.Queue[Item], ends_at: float, variable: str, timeout_s: float) -> Item:
    try:
        async with asyncio.timeout_at(ends_at):
            return await items.get()
    except TimeoutError as error:
        raise DeadlineExceeded(what=f"variable {variable!r}", timeout_s=timeout_s) from error


def _new_text(delta: TokenDelta, num_yielded: int) -> str:
    """What of a delta is new: nothing if it repeats, or if something before it was missed."""
    return delta.text[num_yielded - delta.offset :] if delta.offset <= num_yielded else ""
