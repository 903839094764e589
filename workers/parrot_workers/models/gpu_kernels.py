"""What lies between two projections of a layer, in one kernel each, for an NVIDIA GPU.

A decode step of few rows reads all weights once and is over in a few milliseconds; each kernel in between costs about
two microseconds, however little it does. Written in Triton, which the GPU builds of torch come with. A grid has a
program for each row, so the number of rows is no argument, and nothing is compiled anew when it changes.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

__all__ = ["TritonKernels"]

_GATE_BLOCK = 1024


class TritonKernels:
    """The kernels; `LeanKernels` says what each does."""

    def add_norm(self, x: Tensor, h: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        num_rows, size = x.shape
        total, normed = torch.empty_like(x), torch.empty_like(x)
        if num_rows:
            block = triton.next_power_of_2(size)
            _launch(_add_norm, (num_rows,), x, h, weight, total, normed, eps, size, block, num_warps=8)
        return total, normed

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return functional.rms_norm(x, tuple(weight.shape), weight, eps)  # one kernel already

    def can_rotate(self, head_dim: int) -> bool:
        return head_dim & (head_dim - 1) == 0

    def gate(self, gate_up: Tensor) -> Tensor:
        num_rows, size = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(num_rows, size)
        if num_rows:
            _launch(_gate, (num_rows, triton.cdiv(size, _GATE_BLOCK)), gate_up, out, size, _GATE_BLOCK)
        return out

    def rotate_and_write(
        self,
        qkv: Tensor,
        head_weight: Tensor | None,
        eps: float,
        rotation: tuple[Tensor, Tensor] | None,
        slots: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        num_rows, num_heads, head_dim = qkv.shape
        num_kv_heads = keys.shape[-2]
        num_qo_heads = num_heads - 2 * num_kv_heads
        q = qkv.new_empty(num_rows, num_qo_heads, head_dim)
        cos, sin = rotation or (qkv, qkv)
        weight = qkv if head_weight is None else head_weight
        shape = (num_qo_heads, num_kv_heads, head_dim // 2, head_weight is not None, rotation is not None)
        if num_rows:
            arguments = (qkv, weight, eps, cos, sin, slots, q, keys, values)
            _launch(_rotate_and_write, (num_rows, num_heads), *arguments, *shape, num_warps=1)
        return q


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, num_warps: int = 4) -> None:
    kernel[grid](*arguments, num_warps=num_warps)


@triton.jit  # type: ignore[untyped-decorator]
def _add_norm(x_ptr, h_ptr, weight_ptr, total_ptr, normed_ptr, eps, size: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    is_in = columns < size
    places = row * size + columns
    x = tl.load(x_ptr + places, mask=is_in, other=0.0).to(tl.float32)
    h = tl.load(h_ptr + places, mask=is_in, other=0.0).to(tl.float32)
    total = (x + h).to(total_ptr.dtype.element_ty)  # rounded before the norm, as if it had been stored
    tl.store(total_ptr + places, total, mask=is_in)
    exact = total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(exact * exact) / size + eps)
    weight = tl.load(weight_ptr + columns, mask=is_in, other=0.0).to(tl.float32)
    tl.store(normed_ptr + places, (exact * scale * weight).to(normed_ptr.dtype.element_ty), mask=is_in)


@triton.jit  # type: ignore[untyped-decorator]
def _gate(gate_up_ptr, out_ptr, size: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    is_in = columns < size
    gate = tl.load(gate_up_ptr + row * 2 * size + columns, mask=is_in, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * size + size + columns, mask=is_in, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * size + columns, (gate * tl.sigmoid(gate) * up).to(out_ptr.dtype.element_ty), mask=is_in)


@triton.jit  # type: ignore[untyped-decorator]
def _rotate_and_write(  # type: ignore[no-untyped-def]
    qkv_ptr,
    weight_ptr,
    eps,
    cos_ptr,
    sin_ptr,
    slots_ptr,
    q_ptr,
    keys_ptr,
    values_ptr,
    num_qo: tl.constexpr,
    num_kv: tl.constexpr,
    half: tl.constexpr,
    has_norm: tl.constexpr,
    has_rotation: tl.constexpr,
):
    # One program takes one head of one row: | first half | second half |
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    first = tl.arange(0, half)
    second = first + half
    source = qkv_ptr + (row * (num_qo + 2 * num_kv) + head) * 2 * half
    a = tl.load(source + first).to(tl.float32)
    b = tl.load(source + second).to(tl.float32)
    if head < num_qo + num_kv:
        if has_norm:
            scale = tl.rsqrt((tl.sum(a * a) + tl.sum(b * b)) / (2 * half) + eps)
            weight = weight_ptr + head * 2 * half
            a = a * scale * tl.load(weight + first).to(tl.float32)
            b = b * scale * tl.load(weight + second).to(tl.float32)
        if has_rotation:
            cos = cos_ptr + row * 2 * half
            sin = sin_ptr + row * 2 * half  # negative in the first half
            turned = a * tl.load(cos + first).to(tl.float32) + b * tl.load(sin + first).to(tl.float32)
            b = b * tl.load(cos + second).to(tl.float32) + a * tl.load(sin + second).to(tl.float32)
            a = turned
    slot = tl.load(slots_ptr + row)
    if head < num_qo:
        target = q_ptr + (row * num_qo + head) * 2 * half
    elif head < num_qo + num_kv:
        target = keys_ptr + (slot * num_kv + head - num_qo) * 2 * half
    else:
        target = values_ptr + (slot * num_kv + head - num_qo - num_kv) * 2 * half
    tl.store(target + first, a.to(q_ptr.dtype.element_ty))
    tl.store(target + second, b.to(q_ptr.dtype.element_ty))
