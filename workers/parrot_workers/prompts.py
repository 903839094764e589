"""From an assignment to requests for the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import accumulate

from parrot_mq.bus import Bus, fetch_text
from parrot_mq.messages import BlobRef, Generation, Prefill
from parrot_mq.types import Objective
from parrot_workers.engine.base import GenerationRequest, PrefillRequest

__all__ = ["Prompts"]

Texts = Mapping[tuple[str, str], str]
"""Large texts, by tenant and digest."""


class Prompts:
    """The prompts of one message. Each large segment is fetched once however many prompts use it.

    Args:
        bus: Where large segments are.
        segments: Parts of prompts.
        latency_tpot_ms: Milliseconds for each token of an output that somebody waits for, if nothing else is said; 0
            sets no target.
        texts: What was fetched for an earlier message.
    """

    def __init__(
        self,
        bus: Bus,
        segments: Sequence[str | BlobRef],
        *,
        latency_tpot_ms: float = 0.0,
        texts: Texts | None = None,
    ) -> None:
        self._bus = bus
        self._segments = segments
        self._latency_tpot_ms = latency_tpot_ms
        self._known = texts or {}
        self.texts: dict[tuple[str, str], str] = {}
        """What the prompts that were read had fetched."""

    async def read(self, generation: Generation) -> GenerationRequest:
        """Put the prompt of a generation together.

        Raises:
            BlobMissing: A large text is not in the store.
            MalformedMessage: It is no text.
            IndexError: The message has no such segment.
            TransportError: The server was away for too long.
        """
        texts = await self._read(generation.prompt, generation.tenant)
        return GenerationRequest(
            key=generation.key,
            prompt="".join(texts),
            sampling=generation.sampling,
            seed=_seed(generation),
            prefix_hashes=tuple(generation.prefix_hashes),
            prefix_ends=tuple(accumulate(map(len, texts))),
            deadline=generation.deadline,
            salt=generation.salt or generation.tenant,
            output_ids=tuple(generation.output_ids),
            tpot_target_s=self._tpot_target_s(generation.objective),
        )

    async def read_beginning(self, prefill: Prefill) -> PrefillRequest:
        """Put the beginning of a prompt together; raises as `read` does."""
        tenant = prefill.key.partition(".")[0]
        texts = await self._read(prefill.prompt, tenant)
        return PrefillRequest(
            key=prefill.key,
            prompt="".join(texts),
            prefix_hashes=tuple(prefill.prefix_hashes),
            prefix_ends=tuple(accumulate(map(len, texts))),
            salt=prefill.salt or tenant,
        )

    async def _read(self, indices: Sequence[int], tenant: str) -> list[str]:
        return [await self._text(self._segments[index], tenant) for index in indices]

    async def _text(self, segment: str | BlobRef, tenant: str) -> str:
        if isinstance(segment, str):
            return segment
        place = tenant, segment.digest
        if place not in self.texts:
            self.texts[place] = self._known.get(place) or await fetch_text(self._bus, tenant, segment)
        return self.texts[place]

    def _tpot_target_s(self, objective: Objective) -> float | None:
        """Seconds that each token may take; none if only the end counts."""
        if objective.kind == "throughput":
            return None
        return (objective.tpot_ms or self._latency_tpot_ms) / 1000 or None


def _seed(generation: Generation) -> int:
    """The task's own seed, or one made of its address: the same at every attempt and on every worker."""
    if generation.sampling.seed is not None:
        return generation.sampling.seed
    return int.from_bytes(hashlib.blake2b(generation.key.encode(), digest_size=8).digest())
