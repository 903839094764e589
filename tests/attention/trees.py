"""Steps over random prefix trees, and attention by one dense mask: what a plan has to come to, found without one.

Every token of the tree has a number of its own, wherever its keys and values lie in the pool. A sequence is the numbers
on its path. A row sees the numbers up to its own place on its path, and that is the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import settings
from hypothesis import strategies as st
from parrot_workers.attention import AttentionPlan, Level, SequenceSpan
from parrot_workers.kv_cache import OWN, Segment
from torch import Tensor

unhurried = settings(deadline=None, max_examples=100)
"""For what is slow the first time, or on a busy machine."""


@dataclass
class World:
    """A prefix tree on pages of a pool.

    Attributes:
        page_size: Tokens in a page.
        rng: Decides on which pages things lie.
        slots: Where the token of each number lies.
        num_pages: Pages of the pool.
    """

    page_size: int
    rng: np.random.Generator
    slots: list[int] = field(default_factory=list)
    num_pages: int = 1

    def segment(self, num_tokens: int, *, key: int, start: int) -> tuple[Segment, list[int]]:
        """A segment on new pages, and the numbers of its tokens. Its pages follow one another, or some, or none do."""
        count = -(-num_tokens // self.page_size)
        pages = np.arange(self.num_pages, self.num_pages + count, dtype=np.int32)
        self.num_pages += count + int(self.rng.integers(0, 2))
        cut = int(self.rng.integers(0, count + 1))
        pages[:cut] = self.rng.permutation(pages[:cut])
        numbers = list(range(len(self.slots), len(self.slots) + num_tokens))
        slots = (pages[:, None] * self.page_size + np.arange(self.page_size)).reshape(-1)
        self.slots += slots[:num_tokens].tolist()
        return Segment(key, pages, start, num_tokens, 0), numbers


@dataclass(frozen=True)
class TreeStep:
    """What is computed in one step.

    Attributes:
        spans: The sequences.
        paths: Numbers of the tokens of each.
        slots: Where the token of each number lies, shape [num_numbers].
        page_size: Tokens in a page.
        num_pages: Pages of the pool.
    """

    spans: list[SequenceSpan]
    paths: list[list[int]]
    slots: npt.NDArray[np.int64]
    page_size: int
    num_pages: int

    def expected_rows(self, plan: AttentionPlan) -> list[tuple[int, int]]:
        """Sequence and position of each row, in packed order."""
        spans = ((index, self.spans[index]) for index in plan.order)
        return [(index, position) for index, span in spans for position in range(span.begin, span.end)]

    def expected_slots(self, plan: AttentionPlan) -> list[list[int]]:
        """The slots that each row has to read, ascending."""
        return [
            sorted(self.slots[self.paths[index][: position + 1]].tolist())
            for index, position in self.expected_rows(plan)
        ]

    def mask(self, plan: AttentionPlan, window: int | None = None) -> Tensor:
        """Which numbers each row sees, shape [num_rows, num_numbers]."""
        rows = self.expected_rows(plan)
        mask = torch.zeros(len(rows), len(self.slots), dtype=torch.bool)
        for row, (index, position) in enumerate(rows):
            first = 0 if window is None else max(0, position + 1 - window)
            mask[row, self.paths[index][first : position + 1]] = True
        return mask


@st.composite
def tree_steps(
    draw: st.DrawFn,
    *,
    max_sequences: int = 7,
    max_rows: int = 6,
    max_tokens: int = 13,
    is_aligned: bool | None = None,
) -> TreeStep:
    """Steps over trees of up to three levels above the sequences' own tokens."""
    world = World(draw(st.sampled_from([1, 4, 16])), np.random.default_rng(draw(st.integers(0, 1 << 20))))
    is_aligned = draw(st.booleans()) if is_aligned is None else is_aligned
    unit = world.page_size if is_aligned else 1
    nodes: list[tuple[list[Segment], list[int]]] = [([], [])]
    for key in range(draw(st.integers(0, 6))):
        segments, numbers = draw(st.sampled_from([node for node in nodes if len(node[0]) < 3]))
        # An inner segment may be empty, and one that is not aligned may end anywhere inside of a page.
        segment, more = world.segment(draw(st.integers(0, max_tokens)) * unit, key=key, start=len(numbers))
        nodes.append(([*segments, segment], [*numbers, *more]))
    spans, paths = [], []
    for _ in range(draw(st.integers(1, max_sequences))):
        segments, numbers = draw(st.sampled_from(nodes))
        num_own = draw(st.integers(0 if numbers else 1, max_tokens))
        segment, more = world.segment(num_own, key=OWN, start=len(numbers))
        path = [*numbers, *more]
        end = draw(st.one_of(st.just(len(path)), st.integers(1, len(path))))
        begin = max(0, end - draw(st.integers(1, max_rows)))
        spans.append(SequenceSpan(segments=[*segments, segment], begin=begin, end=end))
        paths.append(path)
    slots = np.array(world.slots, dtype=np.int64)
    return TreeStep(spans, paths, slots, world.page_size, world.num_pages)


def read_slots(levels: Sequence[Level]) -> list[list[int]]:
    """The slots that each row of a plan reads, ascending; twice if it reads them twice."""
    read: list[list[int]] = [[] for _ in range(levels[-1].qo_indptr[-1])]
    for level in levels:
        for index, kv_len in enumerate(level.kv_lens.tolist()):
            pages = level.kv_indices[level.kv_indptr[index] : level.kv_indptr[index + 1]]
            slots = (pages[:, None] * level.page_size + np.arange(level.page_size)).reshape(-1)[:kv_len].tolist()
            first, last = int(level.qo_indptr[index]), int(level.qo_indptr[index + 1])
            for row in range(first, last):
                num_seen = kv_len - (last - row) + 1 if level is levels[-1] else kv_len
                read[row] += slots[:num_seen]
    return [sorted(slots) for slots in read]


@dataclass(frozen=True)
class LayerTensors:
    """Random queries, and a pool with random keys and values.

    Attributes:
        q: Shape [num_rows, num_qo_heads, head_dim].
        keys: Shape [num_pages, page_size, num_kv_heads, head_dim].
        values: Like `keys`.
    """

    q: Tensor
    keys: Tensor
    values: Tensor


def make_tensors(
    step: TreeStep,
    num_rows: int,
    *,
    num_kv_heads: int = 2,
    group: int = 2,
    head_dim: int = 8,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> LayerTensors:
    """Make the tensors of a layer."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(num_rows, num_kv_heads * group, head_dim, generator=generator)
    pool = torch.randn(2, step.num_pages, step.page_size, num_kv_heads, head_dim, generator=generator)
    return LayerTensors(q.to(dtype), pool[0].to(dtype), pool[1].to(dtype))


def attend_by_mask(
    step: TreeStep,
    plan: AttentionPlan,
    tensors: LayerTensors,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Attention of all rows over all tokens under one mask, in fp64."""
    group = tensors.q.shape[1] // tensors.keys.shape[2]
    k, v = (
        cache.flatten(0, 1)[step.slots].double().repeat_interleave(group, 1) for cache in (tensors.keys, tensors.values)
    )
    scores = torch.einsum("nhd,mhd->nhm", tensors.q.double(), k) * scale
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~step.mask(plan, window)[:, None], -torch.inf).softmax(-1)
    return torch.einsum("nhm,mhd->nhd", weights, v)
