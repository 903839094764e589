"""Attention by FlashInfer inside CUDA graphs: plans of a fixed shape, all arrays at fixed places.

FlashInfer's graph mode fixes the number of entries of a level by the length of the arrays it is given, and the number
of rows by its first plan. Both are those of the `GraphShape`; lengths and pages may change from replay to replay.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from parrot_workers.attention.flashinfer import FlashInferBackend
from parrot_workers.attention.flashinfer_levels import LayerKind, LevelArrays, plan_arguments
from parrot_workers.attention.graph_shape import GraphShape, PaddedPlan
from parrot_workers.attention.plan import AttentionPlan

__all__ = ["FlashInferGraph", "GraphArrays"]

SCHEDULE_BYTES: Final = 1 << 18
"""FlashInfer's plan of one level; one of 512 rows takes 20 kB. Each graph has as much pinned memory again."""


class GraphArrays:
    """Device memory that the graphs of all shapes read. They run one at a time, and each plan fills it anew.

    Args:
        max_entries: Most entries of a level.
        max_indices: Most pages that a level can name: all rows at the longest context.
        device: The GPU.
    """

    def __init__(self, *, max_entries: int, max_indices: int, device: torch.device) -> None:
        self._max_entries = max_entries
        self._max_indices = max_indices
        self._device = device
        self._levels: dict[tuple[bool, int], tuple[torch.Tensor, ...]] = {}
        self._schedules: dict[tuple[LayerKind, int], torch.Tensor] = {}

    def level(self, *, is_flat: bool, place: int, num_entries: int) -> dict[str, torch.Tensor]:
        """The arrays of one level, as arguments of FlashInfer's wrapper.

        Args:
            is_flat: For layers that read each sequence's whole path in one entry.
            place: Which level, counted from the last one outwards.
            num_entries: Entries of the level.
        """
        if (arrays := self._levels.get((is_flat, place))) is None:
            sizes = (self._max_entries + 1, self._max_entries + 1, self._max_entries, self._max_indices)
            arrays = tuple(torch.zeros(size, dtype=torch.int32, device=self._device) for size in sizes)
            self._levels[is_flat, place] = arrays
        qo_indptr, kv_indptr, kv_last_page_len, kv_indices = arrays
        return {
            "qo_indptr_buf": qo_indptr[: num_entries + 1],
            "paged_kv_indptr_buf": kv_indptr[: num_entries + 1],
            "paged_kv_last_page_len_buf": kv_last_page_len[:num_entries],
            "paged_kv_indices_buf": kv_indices,
        }

    def schedule(self, kind: LayerKind, place: int) -> torch.Tensor:
        """Where FlashInfer's plan of a level goes, uint8."""
        if (schedule := self._schedules.get((kind, place))) is None:
            schedule = torch.empty(SCHEDULE_BYTES, dtype=torch.uint8, device=self._device)
            self._schedules[kind, place] = schedule
        return schedule


class FlashInferGraph(FlashInferBackend):
    """Runs plans of one shape, with every array at a fixed place, so that what it runs can be captured and replayed.

    The first `run` for each kind of layer makes FlashInfer's wrappers and must not be captured. From then on `plan`
    alone prepares a replay.

    Args:
        parent: Whose device, library and workspace this one uses.
        shape: Rows and entries.
        arrays: Shared by the graphs of all shapes.
    """

    def __init__(self, parent: FlashInferBackend, shape: GraphShape, arrays: GraphArrays) -> None:
        super().__init__(parent.device, library=parent.library, workspace=parent.workspace)
        self._shape = shape
        self._graph_arrays = arrays

    def plan(self, plan: AttentionPlan) -> None:
        """Prepare for a step whose plan fits into the shape; its rows come first, and padding after them."""
        self._begin(PaddedPlan(plan, self._shape))

    def _make_wrapper(self, kind: LayerKind, place: int, arrays: LevelArrays) -> Any:
        buffers = self._graph_arrays.level(is_flat=kind.is_flat, place=place, num_entries=len(arrays.kv_lens))
        wrapper = self.library.BatchPrefillWithPagedKVCacheWrapper(
            self.workspace.buffer, "NHD", use_cuda_graph=True, backend="fa2", **buffers
        )
        num_bytes, _ = wrapper.workspace_size(**plan_arguments(kind, arrays, is_causal=place == 0))
        wrapper.reset_workspace_buffer(self.workspace.at_least(num_bytes), self._graph_arrays.schedule(kind, place))
        return wrapper
