"""What stands for FlashInfer on a CPU: the parts that we call, by their documented contract.

The kernels are torch operators that read nothing but tensors: the arrays that a plan was written to, at the places
where they are. So what holds for a captured graph can be tested with them: to run again, an operator needs no Python.
The checks of the real wrappers are here as well, and the bound on tiles that its scheduler relies on in graph mode.

Source: flashinfer-python 0.6.18.post1, `prefill.py`, `cascade.py`, `attention/scheduler.cuh`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

NO_KEYS = -5e4
"""Log-sum-exp of nothing; FlashInfer's kernels have a finite number for minus infinity."""

_INDEX_BYTES = 4


@torch.library.custom_op("parrot_fake::paged_attention", mutates_args=("out", "lse"))
def paged_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    arrays: Sequence[Tensor],
    causal: bool,
    scale: float,
    softcap: float,
    window_left: int,
    out: Tensor,
    lse: Tensor,
) -> None:
    """Attend entry by entry; rows of no entry are not written. `lse` is to base 2."""
    qo_indptr, kv_indptr, kv_indices, kv_last_page_len = (array.tolist() for array in arrays)
    for entry, last_page_len in enumerate(kv_last_page_len):
        rows = slice(qo_indptr[entry], qo_indptr[entry + 1])
        pages = kv_indices[kv_indptr[entry] : kv_indptr[entry + 1]]
        if rows.start == rows.stop:
            continue
        if not pages:
            out[rows], lse[rows] = 0, NO_KEYS
            continue
        num_keys = (len(pages) - 1) * keys.shape[1] + last_page_len
        k, v = (cache[pages].flatten(0, 1)[:num_keys].float() for cache in (keys, values))
        mask = _mask(rows.stop - rows.start, num_keys, causal=causal, window_left=window_left)
        out[rows], lse[rows] = _attend(q[rows].float(), k, v, mask, scale=scale, softcap=softcap)


def _mask(num_rows: int, num_keys: int, *, causal: bool, window_left: int) -> Tensor:
    """Which keys each row sees: the last row stands at the last key."""
    key = torch.arange(num_keys)[None]
    own = torch.arange(num_keys - num_rows, num_keys)[:, None]
    mask = key <= own if causal else torch.ones(num_rows, num_keys, dtype=torch.bool)
    return mask & (key >= own - window_left) if window_left >= 0 else mask


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, scale: float, softcap: float) -> tuple[Tensor, Tensor]:
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("nhd,mhd->nhm", q, k) * scale
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask[:, None], -math.inf)
    return torch.einsum("nhm,mhd->nhd", scores.softmax(-1), v), scores.logsumexp(-1) / math.log(2)


@torch.library.custom_op("parrot_fake::merge_state_in_place", mutates_args=("v", "s"))
def _merge(v: Tensor, s: Tensor, v_other: Tensor, s_other: Tensor) -> None:
    largest = torch.maximum(s, s_other)
    weight, weight_other = torch.exp2(s - largest), torch.exp2(s_other - largest)
    total = weight + weight_other
    v.copy_((v.float() * weight[..., None] + v_other.float() * weight_other[..., None]) / total[..., None])
    s.copy_(total.log2() + largest)


def merge_state_in_place(v: Tensor, s: Tensor, v_other: Tensor, s_other: Tensor, mask: Tensor | None = None) -> None:
    assert mask is None
    assert v.shape == v_other.shape
    assert s.shape == s_other.shape == v.shape[:2]
    assert all(one.is_contiguous() for one in (v, s, v_other, s_other))
    assert s.dtype == s_other.dtype == torch.float32
    _merge(v, s, v_other, s_other)


class BatchPrefillWithPagedKVCacheWrapper:
    """The wrapper, with what it is asked for kept where a test can see it."""

    def __init__(
        self,
        float_workspace_buffer: Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        qo_indptr_buf: Tensor | None = None,
        paged_kv_indptr_buf: Tensor | None = None,
        paged_kv_indices_buf: Tensor | None = None,
        paged_kv_last_page_len_buf: Tensor | None = None,
        backend: str = "auto",
    ) -> None:
        assert kv_layout == "NHD"
        assert backend == "fa2"
        self.workspace = float_workspace_buffer
        self.schedule: Tensor | None = None
        self.is_graph = use_cuda_graph
        self.max_num_rows: int | None = None
        self.num_plans = 0
        if use_cuda_graph:
            buffers = (qo_indptr_buf, paged_kv_indptr_buf, paged_kv_indices_buf, paged_kv_last_page_len_buf)
            assert all(one is not None and one.dtype == torch.int32 for one in buffers)
            self.arrays = [one for one in buffers if one is not None]
            self.num_entries = len(self.arrays[0]) - 1
            assert len(self.arrays[1]) == self.num_entries + 1
            assert len(self.arrays[3]) == self.num_entries

    def reset_workspace_buffer(self, float_workspace_buffer: Tensor, int_workspace_buffer: Tensor) -> None:
        self.workspace, self.schedule = float_workspace_buffer, int_workspace_buffer

    def workspace_size(self, **arguments: Any) -> tuple[int, int]:
        assert self.is_graph, "asked in graph mode alone"
        self._check_graph(arguments)
        tile, num_tiles = _graph_tiles(arguments, int(arguments["qo_indptr"][-1]))
        per_tile = arguments["num_qo_heads"] * tile * (arguments["head_dim_qk"] + 1) * 4
        return per_tile * num_tiles, _INDEX_BYTES * (4 * num_tiles + 2 * self.num_entries)

    def plan(
        self,
        qo_indptr: Tensor,
        paged_kv_indptr: Tensor,
        paged_kv_indices: Tensor,
        paged_kv_last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        *,
        causal: bool = False,
        sm_scale: float | None = None,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        q_data_type: torch.dtype = torch.float16,
        kv_data_type: torch.dtype | None = None,
        seq_lens: Tensor | None = None,
        max_token_per_sequence: int | None = None,
    ) -> None:
        arrays = [qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len]
        assert all(one.dtype == torch.int32 and one.is_contiguous() for one in arrays)
        num_pages = paged_kv_indptr.diff()
        lengths = torch.where(num_pages > 0, (num_pages - 1) * page_size + paged_kv_last_page_len, 0)
        assert seq_lens is None or torch.equal(seq_lens, lengths.int())
        assert max_token_per_sequence in (None, int(qo_indptr.diff().max()))
        assert num_qo_heads % num_kv_heads == 0
        assert q_data_type == kv_data_type
        assert sm_scale is not None
        if self.is_graph:
            self._check_graph({"qo_indptr": qo_indptr, "paged_kv_indices": paged_kv_indices})
            self.max_num_rows = self.max_num_rows or int(qo_indptr[-1])
            for buffer, array in zip(self.arrays, arrays, strict=True):
                buffer[: len(array)].copy_(array)
        else:
            self.arrays = [array.clone() for array in arrays]
        self.arguments = (causal, sm_scale, logits_soft_cap or 0.0, window_left)
        self.expected = (num_qo_heads, num_kv_heads, head_dim_qk, page_size, q_data_type, int(qo_indptr[-1]))
        self.num_plans += 1

    def run(
        self,
        q: Tensor,
        paged_kv_cache: tuple[Tensor, Tensor],
        *,
        out: Tensor | None = None,
        lse: Tensor | None = None,
        return_lse: bool = False,
    ) -> None:
        keys, values = paged_kv_cache
        num_rows, num_qo_heads, head_dim = q.shape
        assert (num_qo_heads, keys.shape[2], head_dim, keys.shape[1], q.dtype, num_rows) == self.expected
        assert keys.shape == values.shape
        assert keys.dtype == values.dtype == q.dtype
        assert out is not None
        assert out.shape == q.shape
        assert out.dtype == q.dtype
        assert out.is_contiguous()
        assert (lse is not None) == return_lse
        # What the kernel leaves alone is whatever was there: not a number, if the memory was used before.
        out.fill_(math.nan)
        lse = torch.empty(num_rows, num_qo_heads) if lse is None else lse.fill_(math.nan)
        assert lse.shape == (num_rows, num_qo_heads)
        assert lse.dtype == torch.float32
        paged_attention(q, keys, values, self.arrays, *self.arguments, out, lse)

    def _check_graph(self, arguments: dict[str, Any]) -> None:
        qo_indptr = arguments["qo_indptr"]
        assert len(qo_indptr) - 1 == self.num_entries, "the number of entries is fixed"
        assert self.max_num_rows in (None, int(qo_indptr[-1])), "the number of rows is fixed"
        assert len(arguments["paged_kv_indices"]) <= len(self.arrays[2]), "more pages than the buffer holds"


def _graph_tiles(arguments: dict[str, Any], num_rows: int, num_multiprocessors: int = 132) -> tuple[int, int]:
    """Rows of a tile, and tiles of a level in graph mode, as `PrefillSplitQOKVIndptr` has them."""
    lengths = arguments["qo_indptr"].diff()
    group = arguments["num_qo_heads"] // arguments["num_kv_heads"]
    longest = (num_rows - len(lengths) + 1) % 2**32 * group  # unsigned, as it is there
    tile = 128 if longest > 64 and arguments["head_dim_qk"] < 256 else 64 if longest > 16 else 16
    bound = -(-num_rows * group // tile) + len(lengths) - 1
    needed = int(((lengths * group + tile - 1) // tile).sum())
    assert needed <= bound, "more tiles than the graph was captured with"
    return tile, max(2 * num_multiprocessors // arguments["num_kv_heads"], bound)


library = SimpleNamespace(
    BatchPrefillWithPagedKVCacheWrapper=BatchPrefillWithPagedKVCacheWrapper, merge_state_in_place=merge_state_in_place
)
"""Stands for the module `flashinfer`."""
