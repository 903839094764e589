"""What calls of the kernel read: a layer's tensors in the views that they need, and stretches of keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from parrot_workers.attention.cpu.kernels import Kernel

__all__ = ["Gather", "LayerInput", "Run", "Source", "Strided"]


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


class Strided(NamedTuple):
    """Sequences whose slots follow one another, equally many in each and equally far apart: read in place.

    Attributes:
        batch: Sequences.
        first: The first slot of the first sequence.
        stride: From the first slot of one sequence to that of the next.
        num_tokens: Slots of each.
    """

    batch: int
    first: int
    stride: int
    num_tokens: int

    def read(self, layer: LayerInput) -> tuple[Tensor, Tensor]:
        num_kv_heads, head_dim = layer.keys.shape[2:]
        width = num_kv_heads * head_dim
        size = (self.batch, num_kv_heads, self.num_tokens, head_dim)
        strides = (self.stride * width, head_dim, width, 1)
        first = self.first * width
        k, v = (cache.as_strided(size, strides, cache.storage_offset() + first) for cache in (layer.keys, layer.values))
        return k, v


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
