"""Messages between processes as payload and headers; those larger than the server takes go as claim checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parrot_mq.messages import HEADER_BLOB, BlobRef, Message, decode, encode, encode_blob_ref

if TYPE_CHECKING:
    from parrot_mq.bus.base import Bus, Delivery

__all__ = ["Packed", "pack", "unpack"]

BLOB_TENANT = "pmq-sys"

Packed = tuple[bytes, dict[str, str]]
"""Payload and headers."""


async def pack(bus: Bus, message: Message) -> Packed:
    """Payload and headers of a message, as a claim check if it is larger than the server takes."""
    payload = encode(message)
    if len(payload) <= bus.max_payload:
        return payload, {}  # no headers: they would count
    digest = await bus.put_blob(BLOB_TENANT, payload)
    return encode_blob_ref(BlobRef(digest=digest, size_bytes=len(payload)))


async def unpack(bus: Bus, delivery: Delivery, expected: Any) -> Any:
    """The message that was packed.

    Raises:
        CodecError: It is none of `expected`.
        BlobMissing: Its bytes are not in the store.
        TransportError: As `Bus.get_blob`, which limits its own waiting.
    """
    if HEADER_BLOB not in delivery.headers:
        return decode(delivery.payload, expected, delivery.headers)
    ref = decode(delivery.payload, BlobRef, delivery.headers)
    return decode(await bus.get_blob(BLOB_TENANT, ref.digest), expected)
