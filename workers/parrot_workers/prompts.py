"""From an assignment to requests for the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate

from parrot_mq.bus import Bus, fetch_text
from parrot_mq.messages import BlobRef, Generation
from parrot_workers.engine.base import GenerationRequest

__all__ = ["Prompts"]


class Prompts:
    """The prompts of one batch. Each segment is fetched once however many generations use it."""

    def __init__(self, bus: Bus, segments: Sequence[str | BlobRef]) -> None:
        self._bus = bus
        self._segments = list(segments)

    async def read(self, generation: Generation) -> GenerationRequest:
        """Put the prompt of a generation together.

        Raises:
            BlobMissing: A large text is not in the store.
            MalformedMessage: It is no text.
            IndexError: The batch has no such segment.
            TransportError: The server was away for too long.
        """
        texts = [await self._text(index, generation.tenant) for index in generation.prompt]
        return GenerationRequest(
            key=generation.key,
            prompt="".join(texts),
            sampling=generation.sampling,
            seed=_seed(generation),
            prefix_hashes=tuple(generation.prefix_hashes),
            prefix_ends=tuple(accumulate(map(len, texts))),
            deadline=generation.deadline,
            salt=generation.tenant,
        )

    async def _text(self, index: int, tenant: str) -> str:
        segment = self._segments[index]
        if not isinstance(segment, str):
            segment = self._segments[index] = await fetch_text(self._bus, tenant, segment)
        return segment


def _seed(generation: Generation) -> int:
    """The task's own seed, or one made of its address: the same at every attempt and on every worker."""
    if generation.sampling.seed is not None:
        return generation.sampling.seed
    return int.from_bytes(hashlib.blake2b(generation.key.encode(), digest_size=8).digest())
