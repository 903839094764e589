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

import torch

from parrot_workers.attention.flashinfer_levels import (
    DTYPES,
    LayerKind,
    LevelArrays,
    check_layer,
    plan_arguments,
    upload,
)
from parrot_workers.attention.level import Level
from parrot_workers.attention.mixed_level import split_short_entries
from parrot_workers.attention.plan import AttentionPlan

__all__ = ["DTYPES", "FlashInferBackend", "Workspace", "check_layer"]

SMALL_TILE: Final = 16
"""FlashInfer's smallest tile: rows times the query heads that share a KV head."""

SHORT_PLACE: Final = -1
"""Place of the part of the last level that is run apart, among the levels counted from the last one outwards."""

WORKSPACE_BYTES: Final = 256 << 20
"""Partial results of keys that were split between blocks. Outside of graphs FlashInfer splits only to fill the GPU, two
blocks for each multiprocessor, which takes 140 MB for 64 heads of 128; in graphs it is asked what it needs."""


class Levels(Protocol):
    """The part of a plan that is read here; `AttentionPlan` and `PaddedPlan` have it."""

    @property
    def levels(self) -> tuple[Level, ...]: ...

    @property
    def flat(self) -> Level: ...


class ReadyLevel(NamedTuple):
    """A wrapper that was planned for this step.

    Attributes:
        wrapper: FlashInfer's.
        page_size: Tokens in a page of the level.
        rows: The rows whose results it gives, int64, on the device; none if it gives a part of all results.
    """

    wrapper: Any
    page_size: int
    rows: torch.Tensor | None = None


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
        wrappers: FlashInfer's wrappers, by kind of layer and place of the level, counted from the last one outwards.
    """

    def __init__(self, device: torch.device, *, library: Any = None, workspace: Workspace | None = None) -> None:
        self.device = device
        self.library = library or importlib.import_module("flashinfer")
        self.workspace = workspace or Workspace(device)
        self._copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._plan: Levels | None = None
        self.wrappers: dict[tuple[LayerKind, int], Any] = {}
        self._ready: dict[LayerKind, list[ReadyLevel]] = {}
        self._arrays: dict[int, tuple[Level, LevelArrays]] = {}  # by identity, which lasts as long as the level is here

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
        own, *others = self._ready[kind]
        out, lse = _run_level(own, q, keys, values)
        for level in others:
            if level.rows is None:
                self.library.merge_state_in_place(out, lse, *_run_level(level, q, keys, values))
            else:
                part, part_lse = _run_level(level, q.index_select(0, level.rows), keys, values)
                out.index_copy_(0, level.rows, part)
                lse.index_copy_(0, level.rows, part_lse)
        return out

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
            self._copied.record(torch.cuda.current_stream(self.device))

    def _prepare(self, kind: LayerKind) -> None:
        """Let FlashInfer plan all levels for a kind of layer."""
        assert self._plan is not None, "run before plan"
        check_layer(
            num_qo_heads=kind.num_qo_heads, num_kv_heads=kind.num_kv_heads, head_dim=kind.head_dim, dtype=kind.dtype
        )
        *upper, own = (self._plan.flat,) if kind.is_flat else self._plan.levels
        # Its own level comes first, and what is copied into the result before what is merged into it.
        places = self._prepare_own(kind, own)
        self._ready[kind] = places + [
            self._prepare_level(kind, place, level) for place, level in enumerate(reversed(upper), start=1)
        ]

    def _prepare_own(self, kind: LayerKind, level: Level) -> list[ReadyLevel]:
        """The last level, in one part or in two."""
        mixed = split_short_entries(level, max_rows=max(1, SMALL_TILE * kind.num_kv_heads // kind.num_qo_heads))
        if mixed is None:
            return [self._prepare_level(kind, 0, level)]
        rows = torch.from_numpy(mixed.rows)
        if self.device.type == "cuda":
            rows = rows.pin_memory().to(self.device, non_blocking=True)
        short = self._prepare_level(kind, SHORT_PLACE, mixed.short)
        return [self._prepare_level(kind, 0, mixed.long), short._replace(rows=rows)]

    def _prepare_level(self, kind: LayerKind, place: int, level: Level) -> ReadyLevel:
        arrays = self._upload(level)
        wrapper = self.wrappers.get((kind, place))
        if wrapper is None:
            wrapper = self.wrappers[kind, place] = self._make_wrapper(kind, place, arrays)
        is_causal = place <= 0
        wrapper.plan(**plan_arguments(kind, arrays, is_causal=is_causal), max_token_per_sequence=arrays.max_rows)
        return ReadyLevel(wrapper, arrays.page_size)

    def _make_wrapper(self, kind: LayerKind, place: int, arrays: LevelArrays) -> Any:
        return self.library.BatchPrefillWithPagedKVCacheWrapper(self.workspace.buffer, "NHD", backend="fa2")

    def _upload(self, level: Level) -> LevelArrays:
        if id(level) not in self._arrays:
            self._arrays[id(level)] = (level, upload(level, self.device))
        return self._arrays[id(level)][1]


def _run_level(
    level: ReadyLevel, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns: result like q, and log-sum-exp to base 2, shape [num_rows, num_qo_heads], fp32."""
    if level.page_size != keys.shape[1]:
        keys, values = (cache.view(-1, level.page_size, *cache.shape[2:]) for cache in (keys, values))
    # Not left to FlashInfer, which would fill its outputs with zeros first. Memory is taken anew for each call: the
    # caching allocator makes that cheap, and a graph that is being captured takes it from its own pool.
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    level.wrapper.run(q, (keys, values), out=out, lse=lse, return_lse=True)
    return out, lse
