"""Semantic variables on the bus: set one, fail one, read several; large texts go through blobs by themselves."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import msgspec

from parrot_mq.bus.base import NO_HEADERS, Bus, Stored
from parrot_mq.errors import InvalidName, ParrotError, SubjectTaken, VariableAlreadySet
from parrot_mq.messages import (
    HEADER_PRODUCER,
    HEADER_USAGE,
    STREAM_VARS,
    BlobRef,
    ErrorInfo,
    Usage,
    Value,
    VariableAddress,
    decode_value,
    encode_blob_ref,
    encode_error,
    encode_text,
    variable_subject,
)
from parrot_mq.messages.values import MAX_INLINE_BYTES, read_usage
from parrot_mq.observability import current_trace, trace_headers
from parrot_mq.types import raw_variable

__all__ = ["fail_variable", "fetch_text", "get_usage", "get_values", "pack_text", "set_variable"]


async def set_variable(
    bus: Bus,
    address: VariableAddress,
    text: str | BlobRef,
    *,
    producer: str = "",
    usage: Usage | None = None,
) -> Stored:
    """Set a variable, once, to a text or to a blob that is stored already. It carries the trace of what runs now.

    Args:
        bus: The connection.
        address: Which variable.
        text: Its value.
        producer: The worker, or the host of a function, that made it, if one did.
        usage: What it cost.

    Delivery: when it returns, the value is stored. Setting the same text again is harmless.

    Raises:
        VariableAlreadySet: It has another value.
        TransportError: As `Bus.publish_once`.
    """
    payload, headers = await pack_text(bus, address.tenant, text)
    if usage is not None:
        headers = {**headers, HEADER_USAGE: msgspec.json.encode(usage).decode()}
    return await _publish(bus, address, payload, headers, producer)


async def pack_text(bus: Bus, tenant: str, text: str | BlobRef) -> tuple[bytes, dict[str, str]]:
    """Payload and headers of a text as it travels: a large one is stored first, and its claim check travels.

    Raises:
        TransportError: As `Bus.put_blob`.
    """
    payload, headers = encode_blob_ref(text) if isinstance(text, BlobRef) else encode_text(text)
    if len(payload) <= MAX_INLINE_BYTES:
        return payload, headers
    digest = await bus.put_blob(tenant, payload)
    return encode_blob_ref(BlobRef(digest=digest, size_bytes=len(payload)))


async def fail_variable(
    bus: Bus, address: VariableAddress, error: BaseException | ErrorInfo, *, producer: str = ""
) -> bool:
    """Give a variable an error instead of a value; returns False if it had a value or an error already.

    It carries the trace of what runs now.
    """
    payload, headers = encode_error(error)
    try:
        return (await _publish(bus, address, payload, headers, producer)).is_new
    except VariableAlreadySet:
        return False


async def _publish(
    bus: Bus, address: VariableAddress, payload: bytes, headers: dict[str, str], producer: str
) -> Stored:
    headers = {**headers, **trace_headers(current_trace())}
    if producer:
        headers = {**headers, HEADER_PRODUCER: producer}
    try:
        return await bus.publish_once(variable_subject(*address), payload, headers=headers)
    except SubjectTaken as error:
        raise VariableAlreadySet(variable=address.variable) from error


async def get_values(bus: Bus, addresses: Iterable[VariableAddress]) -> dict[VariableAddress, Value]:
    """The values of those variables that are set."""
    by_subject = {variable_subject(*address): address for address in addresses}
    found = await bus.get(STREAM_VARS, list(by_subject))
    return {by_subject[s]: decode_value(d.payload, d.headers) for s, d in found.items()}


async def get_usage(bus: Bus, address: VariableAddress) -> Usage | None:
    """What the text of a variable cost; of a transformed one, what the text cost that was transformed.

    None if it is not set, or whoever set it did not say.
    """
    addresses = [address]
    with suppress(InvalidName):  # a name without room for the ending is none of a transformed text
        addresses.append(address._replace(variable=raw_variable(address.variable)))
    subjects = [variable_subject(*each) for each in addresses]
    found = await bus.get(STREAM_VARS, subjects)
    usages = (read_usage(found[subject].headers) for subject in subjects if subject in found)
    return next((usage for usage in usages if usage is not None), None)


async def fetch_text(bus: Bus, tenant: str, value: Value) -> str:
    """The text that a value stands for.

    Raises:
        ParrotError: The value is an error: the one that it carries.
        BlobMissing: The large text is not in the store.
    """
    match value:
        case str():
            return value
        case BlobRef():
            plain = decode_value(await bus.get_blob(tenant, value.digest), NO_HEADERS)  # an error if it is no text
            return await fetch_text(bus, tenant, plain)
        case ErrorInfo():
            error: ParrotError = value.to_error()
            raise error
