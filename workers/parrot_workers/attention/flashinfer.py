"""Attention by FlashInfer on an NVIDIA GPU: one paged kernel per level, joined by log-sum-exp.

Every level is one `BatchPrefillWithPagedKVCacheWrapper` with the `fa2` kernels, in prefill, in decode and in all that
is between. FlashInfer has a ready-made multi-level wrapper; on Hopper it takes the `fa3` kernels, which neither pack
the query heads of a group into a tile nor split long keys, so a level with few rows would leave most of the GPU idle.

FlashInfer's plan is made on the host: which part of which entry each block of threads takes. It depends on the index
arrays and on what a layer asks for, not on the layer, so layers of one kind share it.

NOTE: written against flashinfer-python 0.6.18.post1, which the `gpu` extra pins. Nothing but this module and
`flashinfer_graphs` calls it.
"""

from __future__ import annotations

import importlib
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import torch

from parrot_mq.errors import ConfigurationError
from parrot_workers.attention.level import Level
from parrot_workers.attention.plan import AttentionPlan

__all__ = ["FlashInferBackend", "LayerKind", "LevelArrays", "Levels", "Workspace", "check_layer", "plan_arguments"]

DTYPES: Final = (torch.float16, torch.bfloat16)
HEAD_DIMS: Final = (64, 128, 256)
MAX_MERGED_ELEMENTS: Final = 8192
"""`merge_state` has a thread for each 8 elements of a row, and a block has 1024: more heads cannot be merged."""

WORKSPACE_BYTES: Final = 256 << 20
"""Partial results of keys that were split between blocks. Outside of graphs FlashInfer splits only to fill the GPU, two
blocks for each multiprocessor, which takes 140 MB for 64 heads of 128; in graphs it is asked what it needs."""


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


class Levels(Protocol):
    """The part of a plan that is read here; `AttentionPlan` and `PaddedPlan` have it."""

    @property
    def levels(self) -> tuple[Level, ...]: ...

    @property
    def flat(self) -> Level: ...


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


class ReadyLevel(NamedTuple):
    """A wrapper that was planned for this step."""

    wrapper: Any
    page_size: int


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


class Workspace:
    """Scratch memory of the kernels. They run one after the other, so all share it."""

    def __init__(self, device: torch.device) -> None:
        self.buffer = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device)

    def at_least(self, num_bytes: int) -> torch.Tensor:
        """Return a buffer of this size or more. A smaller one lives on in the graphs that were captured with it."""
        if self.buffer.numel() < num_bytes:
            self.buffer = torch.empty(num_bytes, dtype=torch.uint8, device=self.buffer.device)
        return self.buffer


class FlashInferBackend:
    """Runs any plan, kernel by kernel.

    A plan made for one step may be replaced while that step still runs on the GPU: everything goes to the current
    stream, and host memory that a copy may still read is not written before that copy is done.

    Args:
        device: The GPU.
        library: FlashInfer, or what stands for it in a test.
        workspace: Shared with backends that run on the same stream.

    Attributes:
        wrappers: FlashInfer's wrappers, by kind of layer and by level, counted from the last one outwards.
    """

    def __init__(self, device: torch.device, *, library: Any = None, workspace: Workspace | None = None) -> None:
        self.device = device
        self.library = library or importlib.import_module("flashinfer")
        self.workspace = workspace or Workspace(device)
        self._copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._plan: Levels | None = None
        self.wrappers: dict[tuple[LayerKind, int], Any] = {}
        self._ready: dict[LayerKind, list[ReadyLevel]] = {}
        self._arrays: dict[int, LevelArrays] = {}

    def plan(self, plan: AttentionPlan) -> None:
        """Prepare for a step."""
        self._begin(plan)

    def run(
        self,
        q: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        *,
        scale: float,
        softcap: float | None = None,
        window: int | None = None,
    ) -> torch.Tensor:
        """Attend over the paged cache, as `AttentionBackend.run` says; all tensors fp16 or bf16, GPU."""
        kind = LayerKind(q.shape[1], keys.shape[2], q.shape[2], q.dtype, scale, softcap, window)
        if kind not in self._ready:  # a kind of layer that no step before this one had
            self._prepare(kind)
            self._note_copies()
        own, *upper = self._ready[kind]
        # Not left to FlashInfer, which would fill its outputs with zeros first. Memory is taken anew for each call: the
        # caching allocator makes that cheap, and a graph that is being captured takes it from its own pool.
        out, lse = self._run_level(own, q, keys, values, has_lse=bool(upper))
        for level in upper:
            part, part_lse = self._run_level(level, q, keys, values, has_lse=True)
            self.library.merge_state_in_place(out, lse, part, part_lse)
        return out

    def _run_level(
        self, level: ReadyLevel, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, has_lse: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns: result like q, and log-sum-exp to base 2, shape [num_rows, num_qo_heads], fp32."""
        if level.page_size != keys.shape[1]:
            keys, values = (cache.view(-1, level.page_size, *cache.shape[2:]) for cache in (keys, values))
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device) if has_lse else None
        level.wrapper.run(q, (keys, values), out=out, lse=lse, return_lse=has_lse)
        return out, lse

    def _begin(self, plan: Levels) -> None:
        if self._copied is not None:
            self._copied.synchronize()  # FlashInfer's pinned memory may still be read by the last plan's copy
        self._plan = plan
        self._arrays.clear()
        self._ready.clear()
        for kind in dict.fromkeys(kind for kind, _ in self.wrappers):
            self._prepare(kind)
        self._note_copies()

    def _note_copies(self) -> None:
        if self._copied is not None:
            self._copied.record()

    def _prepare(self, kind: LayerKind) -> None:
        """Let FlashInfer plan all levels for a kind of layer."""
        assert self._plan is not None, "run before plan"
        check_layer(
            num_qo_heads=kind.num_qo_heads, num_kv_heads=kind.num_kv_heads, head_dim=kind.head_dim, dtype=kind.dtype
        )
        levels = (self._plan.flat,) if kind.is_flat else self._plan.levels
        # The last level comes first: it is the one that every plan has.
        self._ready[kind] = [self._prepare_level(kind, place, level) for place, level in enumerate(reversed(levels))]

    def _prepare_level(self, kind: LayerKind, place: int, level: Level) -> ReadyLevel:
        arrays = self._upload(level)
        wrapper = self.wrappers.get((kind, place))
        if wrapper is None:
            wrapper = self.wrappers[kind, place] = self._make_wrapper(kind, place, arrays)
        wrapper.plan(**plan_arguments(kind, place, arrays), max_token_per_sequence=arrays.max_rows)
        return ReadyLevel(wrapper, arrays.page_size)

    def _make_wrapper(self, kind: LayerKind, place: int, arrays: LevelArrays) -> Any:
        return self.library.BatchPrefillWithPagedKVCacheWrapper(self.workspace.buffer, "NHD", backend="fa2")

    def _upload(self, level: Level) -> LevelArrays:
        if (arrays := self._arrays.get(id(level))) is None:
            arrays = self._arrays[id(level)] = _upload(level, self.device)
        return arrays


def plan_arguments(kind: LayerKind, place: int, arrays: LevelArrays) -> dict[str, Any]:
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
        "causal": place == 0,
        "sm_scale": kind.scale,
        "logits_soft_cap": kind.softcap,
        # Ours counts the query itself, theirs the tokens to its left.
        "window_left": -1 if kind.window is None else kind.window - 1,
        "q_data_type": kind.dtype,
        "kv_data_type": kind.dtype,
        "seq_lens": arrays.kv_lens,
    }


def _upload(level: Level, device: torch.device) -> LevelArrays:
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
