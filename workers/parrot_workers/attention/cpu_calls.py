"""Calls of the attention kernel: which rows over which keys. Made once per step, called in every layer.

Rows are seen as [num_rows, num_kv_heads, group, head_dim]: query heads that read the same KV head lie side by side. For
rows that see the same keys, the heads of a group are as good as further rows, so such a call has num_kv_heads heads and
rows * group queries. K and V are then read once, and not once for each query head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from parrot_workers.attention.cpu_kernels import Kernel

__all__ = ["BatchCall", "Call", "CausalBatchCall", "Gather", "LayerInput", "NodeCall", "Part", "Run", "SequenceCall"]


class Part(NamedTuple):
    """What some rows got from some keys.

    Attributes:
        out: Shape [num_rows, num_kv_heads, group, head_dim].
        lse: Natural log-sum-exp of the scores, shape [num_rows, num_kv_heads, group].
    """

    out: Tensor
    lse: Tensor


@dataclass(kw_only=True)
class LayerInput:
    """What the calls of one layer read, in the views that they need.

    Attributes:
        q: Shape [num_rows, num_qo_heads, head_dim], contiguous.
        keys: The layer's keys, shape [num_pages, page_size, num_kv_heads, head_dim], contiguous.
        values: Like `keys`.
        kernel: Attention of dense tensors.
    """

    q: Tensor
    keys: Tensor
    values: Tensor
    kernel: Kernel

    @cached_property
    def rows(self) -> Tensor:
        """Shape [num_rows, num_kv_heads, group, head_dim]."""
        num_rows, _, head_dim = self.q.shape
        return self.q.view(num_rows, self.keys.shape[2], -1, head_dim)

    @cached_property
    def folded(self) -> Tensor:
        """The heads of a group as rows: [1, num_kv_heads, num_rows * group, head_dim]. A copy, unless group is 1."""
        return self.rows.transpose(0, 1).reshape(1, self.keys.shape[2], -1, self.q.shape[2])

    @cached_property
    def heads(self) -> tuple[Tensor, Tensor]:
        """Keys and values by slot, each of shape [1, num_kv_heads, num_slots, head_dim]."""
        k, v = (cache.view(1, -1, *cache.shape[2:]).transpose(1, 2) for cache in (self.keys, self.values))
        return k, v

    def pages(self, page_size: int) -> tuple[Tensor, Tensor]:
        """Keys and values by page, each of shape [num_slots / page_size, page_size * num_kv_heads * head_dim]."""
        width = page_size * self.keys.shape[2] * self.keys.shape[3]
        return self.keys.view(-1, width), self.values.view(-1, width)


class Source(Protocol):
    """Where a call finds its keys and values."""

    def read(self, layer: LayerInput) -> tuple[Tensor, Tensor]:
        """Return keys and values, each of shape [batch, num_kv_heads, num_tokens, head_dim]."""
        ...


class Run(NamedTuple):
    """Slots that follow one another: read in place."""

    first: int
    num_tokens: int

    def read(self, layer: LayerInput) -> tuple[Tensor, Tensor]:
        k, v = layer.heads
        return k.narrow(2, *self), v.narrow(2, *self)


class Gather(NamedTuple):
    """Pages that are copied into memory which is reused: fresh memory for each call would cost more than the copy.

    Attributes:
        pages: Pages of each sequence, padded to the longest, shape [batch * max_pages], int64.
        page_size: Tokens of a page, as counted here.
        k_pages: Memory for the keys, shape [batch * max_pages, page_size * num_kv_heads * head_dim].
        v_pages: The same for the values.
        k: The memory as the kernel wants it, shape [batch, num_kv_heads, max_tokens, head_dim].
        v: The same for the values.
    """

    pages: Tensor
    page_size: int
    k_pages: Tensor
    v_pages: Tensor
    k: Tensor
    v: Tensor

    def read(self, layer: LayerInput) -> tuple[Tensor, Tensor]:
        keys, values = layer.pages(self.page_size)
        torch.index_select(keys, 0, self.pages, out=self.k_pages)
        torch.index_select(values, 0, self.pages, out=self.v_pages)
        return self.k, self.v


Call: TypeAlias = Callable[[LayerInput], Part]
RowIndex: TypeAlias = slice | Tensor


@dataclass(frozen=True, slots=True)
class NodeCall:
    """Rows side by side that all see all tokens of one source."""

    row: int
    num_rows: int
    source: Source

    def __call__(self, layer: LayerInput) -> Part:
        k, v = self.source.read(layer)
        if self.num_rows == 1:  # its heads need not be brought together: they are
            return Part(*layer.kernel(layer.rows.narrow(0, self.row, 1), k, v))
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
