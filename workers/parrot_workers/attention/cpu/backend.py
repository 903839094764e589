"""Attention on a CPU: by our own kernels, or cut into calls of torch's blocked kernel, once per step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from parrot_workers.attention.cpu.kernels import HAS_FLASH, Kernel, flash_kernel, matmul_kernel
from parrot_workers.attention.cpu.maker import HeadShape, Workspace, make_work
from parrot_workers.attention.cpu.rounds import Work
from parrot_workers.attention.cpu.sources import LayerInput
from parrot_workers.attention.cpu.units import cut_levels, cut_window
from parrot_workers.attention.level import Level
from parrot_workers.attention.plan import AttentionPlan
from parrot_workers.cpu_kernels import (
    HEAD_DIMS,
    MAX_GROUP,
    CpuKernels,
    Levels,
    PagedLevel,
    RowUnits,
    load_kernels,
)

__all__ = ["CPUBackend"]


class CPUBackend:
    """Runs any plan on a CPU, in fp32, bf16 or fp16.

    Args:
        has_flash: Whether torch's blocked kernel may be used; without it, and with softcap, products of matrices are.
        has_compiled: Whether our own kernels may be used, where they can be compiled.
    """

    def __init__(self, *, has_flash: bool = HAS_FLASH, has_compiled: bool = True) -> None:
        self._has_flash = has_flash
        self._has_compiled = has_compiled
        self._workspace = Workspace()
        self._plan: AttentionPlan | None = None
        self._work: dict[tuple[HeadShape, int | None], Work] = {}
        self._levels: dict[int | None, Levels] = {}
        self._single_rows: dict[int | None, RowUnits | None] = {}

    def plan(self, plan: AttentionPlan) -> None:
        """Prepare for a step. The calls are made in the first layer of each shape, which tells its sizes."""
        self._plan = plan
        self._work.clear()
        self._levels.clear()
        self._single_rows.clear()

    def run(
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        scale: float,
        softcap: float | None = None,
        window: int | None = None,
    ) -> Tensor:
        """Attend over the paged cache, as `AttentionBackend.run` says; `keys` and `values` contiguous."""
        num_kv_heads, head_dim = keys.shape[2:]
        group = q.shape[1] // num_kv_heads
        window = self.active_window(window)
        compiled = self._compiled(head_dim, group, q.dtype)
        if compiled is not None:
            levels = self.paged_levels(window)
            return compiled.attend(q, keys, values, levels, scale=scale, softcap=softcap, window=window)
        work = self._find_work(HeadShape(num_kv_heads, group, head_dim, q.dtype), window)
        kernel = self._kernel(scale, softcap)
        return work.run(LayerInput(q=q.contiguous(), keys=keys, values=values, kernel=kernel)).reshape(q.shape)

    def active_window(self, window: int | None) -> int | None:
        """The window of a layer, unless all sequences of this step are shorter."""
        plan = self._plan
        assert plan is not None, "run before plan"
        return None if window is None or plan.max_len <= window else window

    def single_rows(self, window: int | None) -> RowUnits | None:
        """What each row of this step reads, for our own kernels; none if rows share something.

        Args:
            window: An active one.
        """
        if window not in self._single_rows:
            self._single_rows[window] = _single_rows(self._levels_for(window), window)
        return self._single_rows[window]

    def paged_levels(self, window: int | None) -> Levels:
        """What the rows of this step read, for our own kernels; `window` as in `single_rows`."""
        levels = self._levels.get(window)
        if levels is None:
            levels = self._levels[window] = Levels(
                [
                    PagedLevel(each.qo_indptr, each.kv_indptr, each.kv_indices, each.kv_lens, each.page_size)
                    for each in self._levels_for(window)
                ]
            )
        return levels

    def _levels_for(self, window: int | None) -> tuple[Level, ...]:
        assert self._plan is not None
        return self._plan.levels if window is None else (self._plan.flat,)

    def _find_work(self, shape: HeadShape, window: int | None) -> Work:
        work = self._work.get((shape, window))
        if work is None:
            work = self._work[shape, window] = self._make_work(shape, window)
        return work

    def _compiled(self, head_dim: int, group: int, dtype: torch.dtype) -> CpuKernels | None:
        can = self._has_compiled and head_dim in HEAD_DIMS and group <= MAX_GROUP
        return load_kernels(dtype) if can else None

    def _kernel(self, scale: float, softcap: float | None) -> Kernel:
        return flash_kernel(scale) if self._has_flash and softcap is None else matmul_kernel(scale, softcap)

    def _make_work(self, shape: HeadShape, window: int | None) -> Work:
        plan = self._plan
        assert plan is not None
        if window is not None:
            rounds = cut_window(plan.flat, plan.slots, window=window, sizes=shape.sizes)
        else:
            rounds = cut_levels(plan.levels, plan.slots, sizes=shape.sizes)
        return make_work(rounds, shape, plan.num_rows, self._workspace)


def _single_rows(levels: tuple[Level, ...], window: int | None) -> RowUnits | None:
    own = levels[-1]
    num_rows = own.num_entries
    if len(levels) > 1 or own.qo_indptr[-1] != num_rows:
        return None
    rows, lens = np.arange(num_rows), own.kv_lens.astype(np.int64)
    if window is None:
        return RowUnits(rows, own.kv_indptr.astype(np.int64), own.kv_indices, lens, own.page_size)
    seen = [_last_slots(own, row, window) for row in range(num_rows)]
    lens = np.array([len(slots) for slots in seen])
    return RowUnits(rows, np.cumsum([0, *lens]), np.concatenate(seen), lens, 1)


def _last_slots(level: Level, entry: int, window: int) -> npt.NDArray[np.int32]:
    """Slots of the last tokens that an entry reads."""
    pages = level.kv_indices[level.kv_indptr[entry] : level.kv_indptr[entry + 1]]
    slots = pages[:, None] * level.page_size + np.arange(level.page_size, dtype=np.int32)
    num_tokens = int(level.kv_lens[entry])
    return slots.reshape(-1)[max(0, num_tokens - window) : num_tokens].astype(np.int32)
