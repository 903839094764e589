"""Lean layers on a CPU in one call: each by itself, or all of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from torch.nn import functional

from parrot_workers.cpu_kernels import (
    HEAD_DIMS,
    MAX_GROUP,
    CpuKernels,
    LayerCaches,
    LayerStruct,
    Levels,
    RowUnits,
    WeightStruct,
    load_kernels,
)
from parrot_workers.kv_cache.pool import KVPool
from parrot_workers.models.lean_layer import GatedMlp, HeadNorm, LeanLayer, RmsNorm, Rotation
from parrot_workers.models.packed_linear import BlockedLinear, PackedLinear
from parrot_workers.models.paged import ForwardContext, LayerPass, LayerSpec

__all__ = ["WholeLayers", "join_layers", "use_whole_layers"]

MAX_ROWS = 2
"""Rows that read weights as vectors; more are multiplied by tiles, or, where there are none, by oneDNN."""


def use_whole_layers(model: Any, specs: tuple[LayerSpec, ...]) -> int:
    """Let lean layers of the plainest kind run in one call where that can be done; returns how many."""
    kernels = load_kernels(model.dtype) if model.device.type == "cpu" else None
    if kernels is None:
        return 0
    layers = [module for module in model.modules() if isinstance(module, LeanLayer)]
    for layer in layers:
        index = layer.attention.layer
        struct = _describe(layer, specs[index])
        layer.whole = None if struct is None else _Whole(WholeLayers(kernels, [(index, struct)]))
    return sum(layer.whole is not None for layer in layers)


def join_layers(layers: Sequence[LeanLayer]) -> WholeLayers | None:
    """Layers that follow one another, in one call; none if some of them cannot be run whole."""
    parts = [layer.whole.layers for layer in layers if isinstance(layer.whole, _Whole)]
    if not parts or len(parts) < len(layers):
        return None
    return WholeLayers(parts[0].kernels, [layer for part in parts for layer in part.layers])


@runtime_checkable
class _KnowsRows(Protocol):
    """An attention that can say what the rows of a step read."""

    def active_window(self, window: int | None) -> int | None: ...

    def single_rows(self, window: int | None) -> RowUnits | None: ...

    def paged_levels(self, window: int | None) -> Levels: ...


class WholeLayers:
    """Layers that follow one another; the tensors that they are made of belong to somebody else.

    Args:
        kernels: What they run by.
        layers: Their numbers, and what they are.
    """

    def __init__(self, kernels: CpuKernels, layers: Sequence[tuple[int, LayerStruct]]) -> None:
        self.kernels = kernels
        self.layers = layers
        self._structs = (LayerStruct * len(layers))(*(struct for _, struct in layers))
        self._can_run_many = all(struct.is_paired for _, struct in layers)
        self._pool: KVPool | None = None
        self._caches: LayerCaches | None = None

    def run(
        self, x: Tensor, rotation: Rotation | None, context: ForwardContext, specs: Sequence[LayerSpec]
    ) -> Tensor | None:
        """Run them for the rows of a step.

        Args:
            x: Hidden states, shape [num_rows, hidden_size].
            rotation: Of the rows; none for no rotation.
            context: Of the step.
            specs: Attention of all layers of the model.

        Returns:
            Hidden states after the layers; none if they cannot run this step.
        """
        reading = self._reading(len(x), context.backend, [specs[layer] for layer, _ in self.layers])
        if reading is None:
            return None
        if self._caches is None or self._pool is not context.pool:
            pool = self._pool = context.pool
            self._caches = LayerCaches([(pool.keys(layer), pool.values(layer)) for layer, _ in self.layers])
        rows, window = reading
        return self.kernels.run_layers(self._structs, x, rotation, context.slots, self._caches, rows, window=window)

    def _reading(
        self, num_rows: int, backend: object, specs: Sequence[LayerSpec]
    ) -> tuple[RowUnits | Levels, int | None] | None:
        """What the rows read, and the window of all layers; none if they differ, or nobody knows."""
        if not isinstance(backend, _KnowsRows):
            return None
        window, *others = {backend.active_window(spec.window) for spec in specs}
        if others:
            return None
        if num_rows <= MAX_ROWS and (units := backend.single_rows(window)) is not None:
            return units, window
        return (backend.paged_levels(window), window) if self._can_run_many else None


class _Whole:
    """One layer."""

    def __init__(self, layers: WholeLayers) -> None:
        self.layers = layers

    def __call__(self, x: Tensor, rotation: Rotation | None, parrot: LayerPass) -> Tensor | None:
        return self.layers.run(x, rotation, parrot.context, parrot.layers)


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
    projections = (attention.qkv_proj, attention.o_proj, mlp.gate_up_proj, mlp.down_proj)
    if not all(map(_blocked, projections)) or spec.num_qo_heads // spec.num_kv_heads > MAX_GROUP:
        return None
    is_ours = all(isinstance(each, BlockedLinear) for each in projections)
    if is_ours and isinstance(mlp.gate_up_proj, BlockedLinear):
        mlp.gate_up_proj.pair()
    weights = map(_blocked, projections)
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
        is_ours,
        attention.is_rotated,
        spec.scale,
        spec.softcap or 0.0,
    )


def _blocked(projection: Any) -> WeightStruct | None:
    return projection.blocked if isinstance(projection, BlockedLinear | PackedLinear) else None
