"""Large values as content-addressed chunks: the same on every bus.

Chunk 0 is written last: where it stands, the others stand too. Every chunk says how many there are.
"""

from __future__ import annotations

import hashlib

from parrot_mq.bus.backoff import Backoff
from parrot_mq.bus.base import Bus, Delivery
from parrot_mq.bus.tasks import for_each
from parrot_mq.errors import BlobMissing
from parrot_mq.messages.subjects import HEADER_CHUNKS, STREAM_BLOBS, blob_subject

__all__ = ["CHUNK_BYTES", "get_blob", "put_blob"]

CHUNK_BYTES = 128 * 1024
_NUM_WRITERS = 16
_LATE_REPLICA_S = 0.4


async def put_blob(bus: Bus, tenant: str, data: bytes, *, now: float, max_age_s: float) -> str:
    """See `Bus.put_blob`.

    The stream keeps a blob for twice `max_age_s`, so one that is younger than `max_age_s` outlives every value that
    refers to it from now on; an older one is written anew.
    """
    digest = hashlib.sha256(data).hexdigest()
    standing = await _first_chunk(bus, tenant, digest)
    if standing is not None and now - standing.timestamp < max_age_s:
        return digest
    if standing is not None:
        await bus.purge(STREAM_BLOBS, blob_subject(tenant, digest, "*"))
    num_chunks = max(1, -(-len(data) // CHUNK_BYTES))

    async def put(index: int) -> None:
        chunk = data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        await bus.publish_once(blob_subject(tenant, digest, index), chunk, headers={HEADER_CHUNKS: str(num_chunks)})

    await for_each(range(1, num_chunks), put, num_workers=_NUM_WRITERS)
    await put(0)
    return digest


async def get_blob(bus: Bus, tenant: str, digest: str) -> bytes:
    """See `Bus.get_blob`; an incomplete one is read again for a moment, for a replica may be behind."""
    backoff = Backoff(_LATE_REPLICA_S)
    while (data := await _read(bus, tenant, digest)) is None:
        if not await backoff.pause():
            raise BlobMissing(digest=digest)
    return data


async def _read(bus: Bus, tenant: str, digest: str) -> bytes | None:
    first = await _first_chunk(bus, tenant, digest)
    if first is None:
        return None
    others = [blob_subject(tenant, digest, index) for index in range(1, _num_chunks(first))]
    found = await bus.get(STREAM_BLOBS, others) if others else {}
    if len(found) != len(others):
        return None
    data = b"".join([first.payload, *(found[subject].payload for subject in others)])
    return data if hashlib.sha256(data).hexdigest() == digest else None


async def _first_chunk(bus: Bus, tenant: str, digest: str) -> Delivery | None:
    subject = blob_subject(tenant, digest, 0)
    return (await bus.get(STREAM_BLOBS, [subject])).get(subject)


def _num_chunks(chunk: Delivery) -> int:
    count = chunk.headers.get(HEADER_CHUNKS, "")
    return int(count) if count.isdigit() else 1
