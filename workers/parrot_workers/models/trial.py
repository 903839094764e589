"""A few tokens to try a model on: two short texts, read by its own code and over a tiny paged cache."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parrot_workers.attention import NEVER, AttentionBackend, AttentionPlan, SequenceSpan, build_plan
from parrot_workers.attention.reference import ReferenceBackend
from parrot_workers.kv_cache import OWN, Segment
from parrot_workers.kv_cache.pool import KVPool, LayerShape
from parrot_workers.models.paged import ForwardContext, LayerSpec, run_model

__all__ = ["Trial"]

_NUM_TOKENS = 8  # of each text
_CUTS = ((0, 5, _NUM_TOKENS), (0, _NUM_TOKENS - 1, _NUM_TOKENS))  # each text is read in two steps
_PAGE_SIZE = 4
_NUM_PAGES = _NUM_TOKENS // _PAGE_SIZE  # of each text


class Trial:
    """Two texts of random tokens.

    Args:
        vocab_size: Tokens are below this.
        device: Where the model is.

    Attributes:
        input_ids: The texts, shape [2, 8], int64, on the device.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self.input_ids = torch.randint(vocab_size, (2, _NUM_TOKENS), generator=generator).to(device)
        self._device = device

    @property
    def parts(self) -> list[tuple[int, int, int]]:
        """What `read` reads in each step: text, begin, end."""
        return [(text, begin, end) for text, cuts in enumerate(_CUTS) for begin, end in pairwise(cuts)]

    def read(self, model: Any, layers: Sequence[LayerSpec], *, backend: AttentionBackend | None = None) -> Tensor:
        """Read both texts over a paged cache, in two steps of unequal parts.

        Args:
            model: A model that calls our attention.
            layers: Its attention.
            backend: Runs it; the reference if none.

        Returns:
            Logits of all tokens, shape [2, 8, vocab_size], float32.
        """
        logits, context = [], self.make_context(layers, model.dtype, backend)
        for step in range(2):
            spans = [(cuts[step], cuts[step + 1]) for cuts in _CUTS]
            logits.append(self._step(model, layers, context, spans))
        (first, second), (cut_a, cut_b) = logits, (_CUTS[0][1], _CUTS[1][1])
        rest_a = _NUM_TOKENS - cut_a
        texts = [[first[:cut_a], second[:rest_a]], [first[cut_a : cut_a + cut_b], second[rest_a:]]]
        return torch.stack([torch.cat(parts) for parts in texts])

    def read_whole(self, model: Any, layers: Sequence[LayerSpec]) -> None:
        """Read both texts over a paged cache in one step."""
        self._step(model, layers, self.make_context(layers, model.dtype), [(0, _NUM_TOKENS)] * 2)

    def make_context(
        self, layers: Sequence[LayerSpec], dtype: torch.dtype, backend: AttentionBackend | None = None
    ) -> ForwardContext:
        """An empty cache with room for both texts, and the plan of reading them in one step."""
        shapes = [LayerShape(layer.num_kv_heads, layer.head_dim) for layer in layers]
        num_pages = 1 + 2 * _NUM_PAGES
        pool = KVPool(shapes, num_pages=num_pages, page_size=_PAGE_SIZE, dtype=dtype, device=self._device)
        context = ForwardContext(pool=pool, backend=backend or ReferenceBackend(), slots=torch.empty(0))
        self._plan(context, [(0, _NUM_TOKENS)] * 2)
        return context

    def _step(
        self, model: Any, layers: Sequence[LayerSpec], context: ForwardContext, spans: list[tuple[int, int]]
    ) -> Tensor:
        plan = self._plan(context, spans)
        tokens = torch.cat([text[begin:end] for text, (begin, end) in zip(self.input_ids, spans, strict=True)])
        positions = torch.from_numpy(plan.positions).to(self._device)
        rows = torch.arange(plan.num_rows, device=self._device)
        return run_model(model, tuple(layers), tokens, positions, rows, context).float()

    def _plan(self, context: ForwardContext, spans: list[tuple[int, int]]) -> AttentionPlan:
        plan = build_plan(
            [SequenceSpan(segments=[_segment(text)], begin=begin, end=end) for text, (begin, end) in enumerate(spans)],
            page_size=_PAGE_SIZE,
            cost=NEVER,
        )
        context.backend.plan(plan)
        context.slots = torch.from_numpy(plan.slots).to(self._device)
        return plan


def _segment(text: int) -> Segment:
    """The pages of a text; page 0 is never used."""
    pages = np.arange(1 + text * _NUM_PAGES, 1 + (text + 1) * _NUM_PAGES, dtype=np.int32)
    return Segment(key=OWN, pages=pages, start=0, num_tokens=_NUM_TOKENS, num_computed=0)
