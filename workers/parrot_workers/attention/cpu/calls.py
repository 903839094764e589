"""Calls of the attention kernel: which rows over which keys. Made once per step, called in every layer.

Rows are seen as [num_rows, num_kv_heads, group, head_dim]: query heads that read the same KV head lie side by side. For
rows that see the same keys, the heads of a group are as good as further rows, so such a call has num_kv_heads heads and
rows * group queries. K and V are then read once, and not once for each query head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from parrot_workers.attention.cpu.sources import LayerInput, Source

__all__ = ["BatchCall", "Call", "CausalBatchCall", "NodeCall", "Part", "RunsCall", "SequenceCall"]


class Part(NamedTuple):
    """What some rows got from some keys.

    Attributes:
        out: Shape [num_rows, num_kv_heads, group, head_dim].
        lse: Natural log-sum-exp of the scores, shape [num_rows, num_kv_heads, group].
    """

    out: Tensor
    lse: Tensor


Call: TypeAlias = Callable[[LayerInput], Part]
RowIndex: TypeAlias = slice | Tensor


@dataclass(frozen=True, slots=True)
class RunsCall:
    """Single rows, each over a long run of its own. In one loop, since every call of the kernel costs enough.

    Attributes:
        runs: For each row: which it is, its first slot, and how many slots.
    """

    runs: Sequence[tuple[int, int, int]]

    def __call__(self, layer: LayerInput) -> Part:
        kernel, rows, (k, v) = layer.kernel, layer.rows, layer.heads
        parts = [
            kernel(rows.narrow(0, row, 1), k.narrow(2, first, num_tokens), v.narrow(2, first, num_tokens))
            for row, first, num_tokens in self.runs
        ]
        return Part(torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts]))


@dataclass(frozen=True, slots=True)
class NodeCall:
    """Rows side by side that all see all tokens of one source."""

    row: int
    num_rows: int
    source: Source

    def __call__(self, layer: LayerInput) -> Part:
        k, v = self.source.read(layer)
        _, num_kv_heads, group, head_dim = layer.rows.shape
        out, lse = layer.kernel(layer.folded.narrow(2, self.row * group, self.num_rows * group), k, v)
        shape = (num_kv_heads, self.num_rows, group)
        return Part(out.reshape(*shape, head_dim).transpose(0, 1), lse.reshape(shape).transpose(0, 1))


@dataclass(frozen=True, slots=True)
class BatchCall:
    """Sequences with equally many rows, each over tokens of its own.

    Attributes:
        rows: All rows, sequence by sequence.
        num_rows: Rows of each sequence.
        source: Keys and values, padded to the longest.
        mask: Hides the padding, shape [batch, 1, 1, max_tokens]; None where there is none.
    """

    rows: RowIndex
    num_rows: int
    source: Source
    mask: Tensor | None

    def __call__(self, layer: LayerInput) -> Part:
        k, v = self.source.read(layer)
        q = _take(layer.rows, self.rows)
        if self.num_rows == 1:
            return Part(*layer.kernel(q, k, v, mask=self.mask))
        _, num_kv_heads, group, head_dim = q.shape
        shape = (len(k), num_kv_heads, self.num_rows, group)
        q = q.view(len(k), self.num_rows, num_kv_heads, group, head_dim).transpose(1, 2)
        out, lse = layer.kernel(q.reshape(len(k), num_kv_heads, -1, head_dim), k, v, mask=self.mask)
        out = out.reshape(*shape, head_dim).transpose(1, 2).reshape(-1, num_kv_heads, group, head_dim)
        return Part(out, lse.reshape(shape).transpose(1, 2).reshape(-1, num_kv_heads, group))


@dataclass(frozen=True, slots=True)
class SequenceCall:
    """New tokens of one sequence, which do not all see the same.

    Attributes:
        row: The first row.
        num_rows: How many.
        source: Keys and values.
        mask: Shape [num_rows, num_tokens]; None if the tokens are those of the rows, and each sees those before it.
    """

    row: int
    num_rows: int
    source: Source
    mask: Tensor | None

    def __call__(self, layer: LayerInput) -> Part:
        k, v = self.source.read(layer)
        q = layer.q.narrow(0, self.row, self.num_rows).unsqueeze(0).transpose(1, 2)
        out, lse = layer.kernel(q, k, v, is_causal=self.mask is None, mask=self.mask)
        shape = (self.num_rows, *layer.rows.shape[1:])
        return Part(out.transpose(1, 2).reshape(shape), lse.transpose(1, 2).reshape(shape[:-1]))


@dataclass(frozen=True, slots=True)
class CausalBatchCall:
    """New tokens of several sequences among themselves, padded at the end: what comes before does not see it.

    Attributes:
        rows: All rows, sequence by sequence, each padded to the longest.
        batch: Sequences.
        source: Keys and values of the same tokens, padded likewise.
        kept: Which rows of the result are no padding; None if all.
    """

    rows: RowIndex
    batch: int
    source: Source
    kept: Tensor | None

    def __call__(self, layer: LayerInput) -> Part:
        k, v = self.source.read(layer)
        q = _take(layer.q, self.rows)
        q = q.view(self.batch, -1, *q.shape[1:]).transpose(1, 2)
        out, lse = layer.kernel(q, k, v, is_causal=True)
        shape = (-1, *layer.rows.shape[1:])
        out, lse = out.transpose(1, 2).reshape(shape), lse.transpose(1, 2).reshape(shape[:-1])
        return Part(out, lse) if self.kept is None else Part(out[self.kept], lse[self.kept])


def _take(tensor: Tensor, rows: RowIndex) -> Tensor:
    return tensor[rows] if isinstance(rows, slice) else tensor.index_select(0, rows)
