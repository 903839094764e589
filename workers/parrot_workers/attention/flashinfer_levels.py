"""What FlashInfer is given for one level: index arrays where it wants them, and the layers that share a plan."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import torch

from parrot_mq.errors import ConfigurationError
from parrot_workers.attention.level import Level

__all__ = ["LayerKind", "LevelArrays", "check_layer", "plan_arguments", "upload"]

DTYPES: Final = (torch.float16, torch.bfloat16)
HEAD_DIMS: Final = (64, 128, 256)
MAX_MERGED_ELEMENTS: Final = 8192
"""`merge_state` has a thread for each 8 elements of a row, and a block has 1024: more heads cannot be merged."""


class LayerKind(NamedTuple):
    """What FlashInfer's plan depends on besides the index arrays; layers that agree in it share a plan."""

    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    scale: float
    softcap: float | None
    window: int | None

    @property
    def is_flat(self) -> bool:
        """Whether such layers read each sequence's whole path in one entry."""
        return self.window is not None or self.num_qo_heads * self.head_dim > MAX_MERGED_ELEMENTS


class LevelArrays(NamedTuple):
    """A level where FlashInfer wants it: what its plan is made from on the host, what only kernels read on the device.

    Attributes:
        qo_indptr: As `Level.qo_indptr`, int32, CPU, pinned.
        kv_indptr: As `Level.kv_indptr`, int32, CPU, pinned.
        kv_last_page_len: As `Level.kv_last_page_len`, int32, CPU, pinned.
        kv_lens: As `Level.kv_lens`, int32, CPU, pinned.
        kv_indices: As `Level.kv_indices`, int32, on the device.
        page_size: As `Level.page_size`.
        max_rows: Most rows of an entry.
    """

    qo_indptr: torch.Tensor
    kv_indptr: torch.Tensor
    kv_last_page_len: torch.Tensor
    kv_lens: torch.Tensor
    kv_indices: torch.Tensor
    page_size: int
    max_rows: int


def check_layer(*, num_qo_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
    """Refuse a layer that FlashInfer has no kernel for.

    Raises:
        ConfigurationError: The type or the size of the heads is none of those it knows.
    """
    if dtype not in DTYPES:
        sentence = f"FlashInfer runs in bfloat16 or float16, not in {str(dtype).removeprefix('torch.')}"
        raise ConfigurationError(f"{sentence}: set dtype, or the attention backend to 'reference'", setting="dtype")
    if head_dim not in HEAD_DIMS:
        sizes = ", ".join(map(str, HEAD_DIMS))
        sentence = f"FlashInfer has kernels for heads of {sizes} elements, and this model's have {head_dim}"
        raise ConfigurationError(f"{sentence}: set the attention backend to 'reference'", setting="attention")
    if num_qo_heads % num_kv_heads:
        sentence = f"{num_qo_heads} query heads cannot share {num_kv_heads} KV heads evenly"
        raise ConfigurationError(sentence, setting="attention")


def plan_arguments(kind: LayerKind, arrays: LevelArrays, *, is_causal: bool) -> dict[str, Any]:
    """Arguments of FlashInfer's `plan`, and of `workspace_size`."""
    return {
        "qo_indptr": arrays.qo_indptr,
        "paged_kv_indptr": arrays.kv_indptr,
        "paged_kv_indices": arrays.kv_indices,
        "paged_kv_last_page_len": arrays.kv_last_page_len,
        "num_qo_heads": kind.num_qo_heads,
        "num_kv_heads": kind.num_kv_heads,
        "head_dim_qk": kind.head_dim,
        "page_size": arrays.page_size,
        "causal": is_causal,
        "sm_scale": kind.scale,
        "logits_soft_cap": kind.softcap,
        # Ours counts the query itself, theirs the tokens to its left.
        "window_left": -1 if kind.window is None else kind.window - 1,
        "q_data_type": kind.dtype,
        "kv_data_type": kind.dtype,
        "seq_lens": arrays.kv_lens,
    }


def upload(level: Level, device: torch.device) -> LevelArrays:
    """Bring a level to where FlashInfer wants its parts, without waiting for the device.

    All parts lie in one piece of pinned memory. It is fresh for each step, and torch does not give it out again before
    the copies that read it are done.
    """
    parts = (level.qo_indptr, level.kv_indptr, level.kv_last_page_len, level.kv_lens, level.kv_indices)
    sizes = [len(part) for part in parts]
    packed = torch.empty(sum(sizes), dtype=torch.int32, pin_memory=device.type == "cuda")
    np.concatenate(parts, out=packed.numpy())
    qo_indptr, kv_indptr, kv_last_page_len, kv_lens, kv_indices = torch.split(packed, sizes)
    return LevelArrays(
        qo_indptr,
        kv_indptr,
        kv_last_page_len,
        kv_lens,
        kv_indices.to(device, non_blocking=True),
        level.page_size,
        int(np.diff(level.qo_indptr).max()),
    )
