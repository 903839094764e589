"""Random steps over a random prefix tree, and a pool of random keys and values to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from parrot_workers.attention import SequenceSpan
from parrot_workers.kv_cache import OWN, Segment


class Heads(NamedTuple):
    """Shape of the attention heads of a layer."""

    num_qo_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64


class RandomTree:
    """Grows a prefix tree whose segments lie on shuffled pages; page 0 is the dummy.

    Args:
        rng: Random numbers.
        page_size: Tokens in a page.
        is_aligned: Whether inner segments are whole pages, as in the cache's own tree.
        max_tokens: Longest segment.
    """

    def __init__(self, rng: np.random.Generator, *, page_size: int, is_aligned: bool, max_tokens: int) -> None:
        self.rng = rng
        self.page_size = page_size
        self.is_aligned = is_aligned
        self.max_tokens = max_tokens
        self.num_pages = 1
        self._num_nodes = 0

    def spans(self, num_sequences: int, *, max_depth: int, max_rows: int) -> list[SequenceSpan]:
        """Sequences with 1 to `max_rows` new tokens each, in random order."""
        paths = self._grow((), num_sequences, max_depth)
        spans = [self._span(path, max_rows) for path in paths]
        return [spans[index] for index in self.rng.permutation(len(spans))]

    def _grow(self, path: tuple[Segment, ...], num_leaves: int, max_depth: int) -> list[tuple[Segment, ...]]:
        if num_leaves == 1 or len(path) == max_depth:
            return [path] * num_leaves
        cuts = sorted(self.rng.choice(num_leaves + 1, size=2).tolist())
        paths: list[tuple[Segment, ...]] = []
        for num in np.diff([0, *cuts, num_leaves]).tolist():
            if num:
                paths += self._grow((*path, self._segment(path)), num, max_depth)
        return paths

    def _segment(self, path: tuple[Segment, ...], key: int | None = None) -> Segment:
        num_tokens = int(self.rng.integers(1, self.max_tokens + 1))
        if self.is_aligned and key is None:
            num_tokens = -(-num_tokens // self.page_size) * self.page_size
        count = -(-num_tokens // self.page_size)
        pages = np.arange(self.num_pages, self.num_pages + count, dtype=np.int32)
        self.num_pages += count
        self._num_nodes += 1
        start = path[-1].start + path[-1].num_tokens if path else 0
        return Segment(self._num_nodes if key is None else key, self.rng.permutation(pages), start, num_tokens, 0)

    def _span(self, path: tuple[Segment, ...], max_rows: int) -> SequenceSpan:
        segments = (*path, self._segment(path, OWN))
        length = segments[-1].start + segments[-1].num_tokens
        num_rows = int(self.rng.integers(1, min(max_rows, length) + 1))
        end = length if max_rows == 1 else int(self.rng.integers(num_rows, length + 1))
        return SequenceSpan(segments=segments, begin=end - num_rows, end=end)


def random_pool(
    num_pages: int, page_size: int, heads: Heads, *, seed: int, dtype: torch.dtype, device: str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values, each of shape [num_pages, page_size, num_kv_heads, head_dim]."""
    shape = (2, num_pages, page_size, heads.num_kv_heads, heads.head_dim)
    pool = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)
    return pool[0], pool[1]


def random_queries(num_rows: int, heads: Heads, *, seed: int, dtype: torch.dtype, device: str = "cpu") -> torch.Tensor:
    """Queries, shape [num_rows, num_qo_heads, head_dim]."""
    shape = (num_rows, heads.num_qo_heads, heads.head_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def attend_densely(
    spans: Sequence[SequenceSpan],
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Attention without any plan, in fp32: each sequence by itself, over all of its tokens.

    Args:
        spans: In the order of the rows of `q`.
        q: As `AttentionBackend.run` takes it, and so the others.
    """
    results, row = [], 0
    for span in spans:
        num_rows = span.end - span.begin
        slots = torch.cat([_slots(segment, keys.shape[1]) for segment in span.segments])[: span.end].to(q.device)
        k, v = (
            cache.flatten(0, 1)[slots].float().repeat_interleave(q.shape[1] // cache.shape[2], 1)
            for cache in (keys, values)
        )
        scores = torch.einsum("nhd,mhd->hnm", q[row : row + num_rows].float(), k) * scale
        scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        place = torch.arange(span.begin, span.end, device=q.device)[:, None]
        key = torch.arange(span.end, device=q.device)[None]
        is_seen = (key <= place) & (key > place - (window or span.end))
        weights = scores.masked_fill(~is_seen, -torch.inf).softmax(-1)
        results.append(torch.einsum("hnm,mhd->nhd", weights, v))
        row += num_rows
    return torch.cat(results).to(q.dtype)


def _slots(segment: Segment, page_size: int) -> torch.Tensor:
    slots = segment.pages[:, None].astype(np.int64) * page_size + np.arange(page_size)
    return torch.from_numpy(slots.reshape(-1)[: segment.num_tokens])
