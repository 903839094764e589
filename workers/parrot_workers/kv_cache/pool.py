"""The tensors of the cache: K and V of every layer, in pages."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from parrot_workers.kv_cache.sequence_cache import PageCopy

__all__ = ["KVPool", "LayerShape", "page_bytes"]


class LayerShape(NamedTuple):
    """What one layer keeps of each token."""

    num_kv_heads: int
    head_dim: int


def page_bytes(layers: Sequence[LayerShape], page_size: int, dtype: torch.dtype) -> int:
    """Bytes of K and V of one page, all layers together."""
    return sum(2 * page_size * layer.num_kv_heads * layer.head_dim * dtype.itemsize for layer in layers)


class KVPool:
    """K and V of every layer, in FlashInfer's NHD layout: [num_pages, page_size, num_kv_heads, head_dim].

    The slot of a token is page * page_size + offset. All is zero at first: attention kernels multiply what lies behind
    a sequence's last token by 0, and 0 times a NaN from uninitialised memory would be NaN.

    Args:
        layers: Shape of each layer; they may differ.
        num_pages: Pages, the dummy page 0 counted.
        page_size: Tokens of a page.
        dtype: Of K and V.
        device: Where they lie.
    """

    def __init__(
        self,
        layers: Sequence[LayerShape],
        *,
        num_pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.bytes_per_page = page_bytes(layers, page_size, dtype)
        self._device = torch.device(device)
        shapes = [(num_pages, page_size, *layer) for layer in layers]
        self._keys = [_zeros(shape, dtype, self._device) for shape in shapes]
        self._values = [_zeros(shape, dtype, self._device) for shape in shapes]

    def keys(self, layer: int) -> Tensor:
        """K of a layer, shape [num_pages, page_size, num_kv_heads, head_dim]."""
        return self._keys[layer]

    def values(self, layer: int) -> Tensor:
        """V of a layer, shape [num_pages, page_size, num_kv_heads, head_dim]."""
        return self._values[layer]

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Store K and V of new tokens.

        Args:
            layer: Index of the layer.
            slots: Where each row goes, shape [num_rows], int64.
            k: Shape [num_rows, num_kv_heads, head_dim].
            v: Shape [num_rows, num_kv_heads, head_dim].
        """
        self._keys[layer].flatten(0, 1).index_copy_(0, slots, k)
        self._values[layer].flatten(0, 1).index_copy_(0, slots, v)

    def copy(self, copies: Sequence[PageCopy]) -> None:
        """Copy pages as if one copy was made after another; what lies behind a copy's tokens may be copied too."""
        for wave in _waves(copies):
            sources = torch.tensor([copy.source for copy in wave], device=self._device)
            targets = torch.tensor([copy.target for copy in wave], device=self._device)
            for tensor in (*self._keys, *self._values):
                tensor.index_copy_(0, targets, tensor.index_select(0, sources))


def _zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that, on a CPU, take memory only where something is written; in large pages, which are cleared faster."""
    if device.type != "cpu" or not math.prod(shape):
        return torch.zeros(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.from_numpy(np.frombuffer(memory, dtype=np.uint8)).view(dtype).view(shape)


def _waves(copies: Sequence[PageCopy]) -> Iterator[list[PageCopy]]:
    """Cut copies into rows in which all sources can be read before the first target is written."""
    wave: list[PageCopy] = []
    written: set[int] = set()
    for copy in copies:
        if copy.source in written or copy.target in written:
            yield wave
            wave, written = [], set()
        wave.append(copy)
        written.add(copy.target)
    if wave:
        yield wave
