"""Lean layers on a CPU in one call each, for steps of few rows that share nothing: chains, chats, the last of many."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from parrot_workers.cpu_kernels import (
    HEAD_DIMS,
    MAX_GROUP,
    CpuKernels,
    LayerStruct,
    RowUnits,
    WeightStruct,
    load_kernels,
)
from parrot_workers.models.lean_layer import Attention, GatedMlp, HeadNorm, LeanLayer, RmsNorm, Rotation
from parrot_workers.models.packed_linear import PackedLinear
from parrot_workers.models.paged import LayerPass, LayerSpec

__all__ = ["use_whole_layers"]

MAX_ROWS = 2
"""With more rows oneDNN's products are faster than ours by more than the call saves."""


def use_whole_layers(model: Any, specs: tuple[LayerSpec, ...]) -> int:
    """Let lean layers of the plainest kind run in one call where that can be done; returns how many."""
    kernels = load_kernels(model.dtype) if model.device.type == "cpu" else None
    if kernels is None:
        return 0
    layers = [module for module in model.modules() if isinstance(module, LeanLayer)]
    for layer in layers:
        struct = _describe(layer, specs[layer.attention.layer])
        layer.whole = None if struct is None else _Whole(kernels, struct, layer.attention)
    return sum(layer.whole is not None for layer in layers)


@runtime_checkable
class _KnowsRows(Protocol):
    """An attention that can say what each row of a step reads."""

    def single_rows(
        self, *, num_qo_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, window: int | None
    ) -> RowUnits | None: ...


class _Whole:
    """One layer; the tensors that it is made of belong to the `LeanLayer` that holds it."""

    def __init__(self, kernels: CpuKernels, struct: LayerStruct, attention: Attention) -> None:
        self._kernels, self._struct = kernels, struct
        self._layer, self._is_rotated = attention.layer, attention.is_rotated

    def __call__(self, x: Tensor, rotation: Rotation | None, parrot: LayerPass) -> Tensor | None:
        layer, context, spec = self._layer, parrot.context, parrot.layers[self._layer]
        if len(x) > MAX_ROWS or not isinstance(context.backend, _KnowsRows):
            return None
        units = context.backend.single_rows(
            num_qo_heads=spec.num_qo_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            dtype=x.dtype,
            window=spec.window,
        )
        if units is None:
            return None
        keys, values = context.pool.keys(layer), context.pool.values(layer)
        return self._kernels.run_layer(
            self._struct,
            x,
            rotation if self._is_rotated else None,
            context.slots,
            keys,
            values,
            units,
            scale=spec.scale,
            softcap=spec.softcap,
        )


def _describe(layer: LeanLayer, spec: LayerSpec) -> LayerStruct | None:
    """The layer as the kernel takes it; none if it is of another kind."""
    attention, mlp, head_norm = layer.attention, layer.mlp, layer.attention.head_norm
    before, after = (layer.before_attention, layer.before_mlp), (layer.after_attention, layer.after_mlp)
    if not isinstance(mlp, GatedMlp) or mlp.activation is not functional.silu or layer.residual_scale != 1.0:
        return None
    if any(after) or not isinstance(before[0], RmsNorm) or not isinstance(before[1], RmsNorm):
        return None
    if not isinstance(head_norm, HeadNorm | None) or spec.head_dim not in HEAD_DIMS:
        return None
    weights = [_blocked(each) for each in (attention.qkv_proj, attention.o_proj, mlp.gate_up_proj, mlp.down_proj)]
    if not all(weights) or spec.num_qo_heads // spec.num_kv_heads > MAX_GROUP:
        return None
    return LayerStruct(
        *weights,
        before[0].weight.data_ptr(),
        before[1].weight.data_ptr(),
        None if head_norm is None else head_norm.weight.data_ptr(),
        before[0].eps,
        before[1].eps,
        0.0 if head_norm is None else head_norm.eps,
        spec.num_qo_heads,
        spec.num_kv_heads,
        spec.head_dim,
    )


def _blocked(projection: Any) -> WeightStruct | None:
    return projection.blocked if isinstance(projection, PackedLinear) else None
