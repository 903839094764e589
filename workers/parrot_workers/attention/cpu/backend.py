"""Attention on a CPU: what a plan reads is cut into calls of torch's blocked kernel, once per step."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from parrot_workers.attention.cpu.kernels import HAS_FLASH, Kernel, PagedKernel, flash_kernel, matmul_kernel
from parrot_workers.attention.cpu.maker import HeadShape, Workspace, make_work
from parrot_workers.attention.cpu.rounds import Work
from parrot_workers.attention.cpu.sources import LayerInput
from parrot_workers.attention.cpu.units import cut_levels, cut_window
from parrot_workers.attention.plan import AttentionPlan
from parrot_workers.cpu_kernels import HEAD_DIMS, MAX_GROUP, CpuKernels, RowUnits, load_kernels

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

    def plan(self, plan: AttentionPlan) -> None:
        """Prepare for a step. The calls are made in the first layer of each shape, which tells its sizes."""
        self._plan = plan
        self._work.clear()

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
        shape, compiled = self._shape(num_kv_heads, q.shape[1] // num_kv_heads, head_dim, q.dtype)
        work = self._find_work(shape, window)
        paged: PagedKernel | None = partial(compiled.attend, scale=scale, softcap=softcap) if compiled else None
        kernel = self._kernel(scale, softcap)
        return work.run(LayerInput(q=q.contiguous(), keys=keys, values=values, kernel=kernel, paged=paged)).reshape(
            q.shape
        )

    def single_rows(
        self, *, num_qo_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, window: int | None
    ) -> RowUnits | None:
        """What each row of this step reads, for layers of such a shape; none if rows share something."""
        shape, compiled = self._shape(num_kv_heads, num_qo_heads // num_kv_heads, head_dim, dtype)
        return self._find_work(shape, window).single_rows if compiled is not None else None

    def _shape(
        self, num_kv_heads: int, group: int, head_dim: int, dtype: torch.dtype
    ) -> tuple[HeadShape, CpuKernels | None]:
        compiled = self._compiled(head_dim, group, dtype)
        return HeadShape(num_kv_heads, group, head_dim, dtype, has_paged=compiled is not None), compiled

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
        assert plan is not None, "run before plan"
        levels = plan.levels_for(window)
        if window is not None and levels is not plan.levels:
            rounds = cut_window(plan.flat, plan.slots, window=window, sizes=shape.sizes)
        else:
            rounds = cut_levels(levels, plan.slots, sizes=shape.sizes)
        return make_work(rounds, shape, plan.num_rows, self._workspace)
