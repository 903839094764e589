"""Large values as content-addressed chunks: the same on every bus."""

from __future__ import annotations

import asyncio
import hashlib

from parrot_mq.bus.base import Bus, Delivery
from parrot_mq.errors import BlobMissing
from parrot_mq.messages.subjects import STREAM_BLOBS, blob_subject

__all__ = ["CHUNK_BYTES", "HEADER_CHUNKS", "get_blob", "put_blob"]

CHUNK_BYTES = 128 * 1024
HEADER_CHUNKS = "Pmq-Chunks"
"""How many chunks the blob has, on each of them: a reader knows at once whether it has all."""


async def put_blob(bus: Bus, tenant: str, data: bytes) -> str:
    """See `Bus.put_blob`."""
    digest = hashlib.sha256(data).hexdigest()
    chunks = [data[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES)] or [b""]
    headers = {HEADER_CHUNKS: str(len(chunks))}
    async with asyncio.TaskGroup() as group:
        for index, chunk in enumerate(chunks):
            group.create_task(_put_chunk(bus, blob_subject(tenant, digest, index), chunk, headers))
    return digest


async def _put_chunk(bus: Bus, subject: str, chunk: bytes, headers: dict[str, str]) -> None:
    await bus.publish_once(subject, chunk, headers=headers)


async def get_blob(bus: Bus, tenant: str, digest: str) -> bytes:
    """See `Bus.get_blob`."""
    first_subject = blob_subject(tenant, digest, 0)
    first = (await bus.get(STREAM_BLOBS, [first_subject])).get(first_subject)
    if first is None:
        raise BlobMissing(digest=digest)
    others = [blob_subject(tenant, digest, index) for index in range(1, _num_chunks(first))]
    found = await bus.get(STREAM_BLOBS, others) if others else {}
    if len(found) != len(others):
        raise BlobMissing(digest=digest)
    data = b"".join([first.payload, *(found[subject].payload for subject in others)])
    if hashlib.sha256(data).hexdigest() != digest:
        raise BlobMissing(digest=digest)
    return data


def _num_chunks(chunk: Delivery) -> int:
    count = chunk.headers.get(HEADER_CHUNKS, "")
    return int(count) if count.isdigit() else 1
