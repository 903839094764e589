"""Texts packed into steps over the paged cache, without an engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from parrot_workers.attention import NEVER, AttentionBackend, SequenceSpan, build_plan
from parrot_workers.cpu_kernels import load_kernels
from parrot_workers.kv_cache import OWN, Segment
from parrot_workers.kv_cache.pool import KVPool, LayerShape
from parrot_workers.models import ForwardContext, LoadedModel, forward

__all__ = ["PackedReader", "choose_products"]

PAGE_SIZE = 16


class PackedReader:
    """Reads texts side by side, each in steps of any size; remembers what was read."""

    def __init__(self, model: LoadedModel, backend: AttentionBackend, *, num_texts: int, max_tokens: int) -> None:
        self._model = model
        self._num_pages = -(-max_tokens // PAGE_SIZE)
        shapes = [LayerShape(layer.num_kv_heads, layer.head_dim) for layer in model.layers]
        num_pages = 1 + num_texts * self._num_pages
        pool = KVPool(shapes, num_pages=num_pages, page_size=PAGE_SIZE, dtype=model.dtype, device=model.device)
        self._context = ForwardContext(pool=pool, backend=backend, slots=torch.empty(0))
        self._num_read = [0] * num_texts

    def read(self, chunks: Sequence[tuple[int, list[int]]]) -> list[torch.Tensor]:
        """Read the next tokens of some texts in one step.

        Returns:
            For each, the logits of all its new tokens, shape [num_new, vocab_size].
        """
        spans = [self._span(text, len(tokens)) for text, tokens in chunks]
        plan = build_plan(spans, page_size=PAGE_SIZE, cost=NEVER)
        self._context.backend.plan(plan)
        device = self._model.device
        self._context.slots = torch.from_numpy(plan.slots).to(device)
        tokens = torch.tensor([token for index in plan.order for token in chunks[index][1]], device=device)
        rows = torch.arange(plan.num_rows, device=device)
        logits = forward(self._model, tokens, torch.from_numpy(plan.positions).to(device), rows, self._context)
        parts = torch.split(logits, [len(chunks[index][1]) for index in plan.order])
        for text, new in chunks:
            self._num_read[text] += len(new)
        return [part for _, part in sorted(zip(plan.order, parts, strict=True), key=lambda pair: pair[0])]

    def _span(self, text: int, num_new: int) -> SequenceSpan:
        first = 1 + text * self._num_pages
        pages = np.arange(first, first + self._num_pages, dtype=np.int32)
        begin, num_tokens = self._num_read[text], self._num_pages * PAGE_SIZE
        own = Segment(key=OWN, pages=pages, start=0, num_tokens=num_tokens, num_computed=begin)
        return SequenceSpan(segments=[own], begin=begin, end=begin + num_new)


def choose_products(whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack weights for "ours", our own products, if they run here; or for those of oneDNN."""
    kernels = [found for dtype in (torch.float32, torch.bfloat16) if (found := load_kernels(dtype)) is not None]
    if whose == "ours" and not all(each.can_multiply for each in kernels):
        pytest.skip("this processor has no tiles")
    for each in kernels:
        monkeypatch.setattr(each, "can_multiply", whose == "ours")
