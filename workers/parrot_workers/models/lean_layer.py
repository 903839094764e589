"""Decoder layers with few operations: joint projections, norms in one operation, one rotation for queries and keys.

They compute what transformers' modules compute, up to rounding. A step of few tokens is bound by the number of
operations and of Python calls on a GPU without graphs and for small models on a CPU, and by the number of kernels in a
graph. Nothing here waits for a device, and all shapes follow from the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from parrot_workers.models.paged import LayerPass, LayerSpec

__all__ = [
    "Attention",
    "ForeignMlp",
    "GatedMlp",
    "HeadNorm",
    "LeanKernels",
    "LeanLayer",
    "RmsNorm",
    "Rotation",
    "TwoNorms",
    "sign_sines",
]

Rotation: TypeAlias = tuple[Tensor, Tensor]
"""Cosines and signed sines of the rows' positions, both shape [num_rows, 1, head_dim]."""


def _rotation(parrot: LayerPass, position_embeddings: tuple[Tensor, Tensor]) -> Rotation:
    """Put the sign into the sines, once for all layers: `[-x2, x1] * sin` is `[x2, x1] * [-sin, sin]`.

    Args:
        parrot: The forward pass.
        position_embeddings: Cosines and sines as transformers gives them, both shape [1, num_rows, head_dim].
    """
    known: tuple[Rotation, object] | None = parrot.rotations.get(id(position_embeddings))
    if known is None:
        # Kept together, so that no other embeddings can get the same id.
        known = parrot.rotations[id(position_embeddings)] = sign_sines(position_embeddings), position_embeddings
    return known[0]


def sign_sines(position_embeddings: tuple[Tensor, Tensor]) -> Rotation:
    """Make a rotation of cosines and sines, both shape [1, num_rows, head_dim]."""
    cos, sin = position_embeddings
    half = sin.shape[-1] // 2
    signed = torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)
    return cos[0, :, None].contiguous(), signed[:, None]


class LeanKernels(Protocol):
    """What a device can do in one kernel each between the projections of a layer."""

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Return the root mean square norm of `x`, [num_rows, hidden_size], weight [hidden_size]."""

    def add_norm(self, x: Tensor, h: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Return `x + h` and its root mean square norm; all [num_rows, hidden_size], weight [hidden_size]."""

    def gate(self, gate_up: Tensor) -> Tensor:
        """Return `silu(gate) * up`, shape [num_rows, size], of both side by side, [num_rows, 2 * size]."""

    def can_rotate(self, head_dim: int) -> bool:
        """Whether `rotate_and_write` takes heads of this size."""

    def rotate_and_write(
        self,
        qkv: Tensor,
        head_weight: Tensor | None,
        eps: float,
        rotation: Rotation | None,
        slots: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        """Norm and rotate queries and keys, and write keys and values to the cache.

        Args:
            qkv: Shape [num_rows, num_qo_heads + 2 * num_kv_heads, head_dim].
            head_weight: Weights of the norm of each head, as `HeadNorm` has them; none for no norm.
            eps: Of the norm.
            rotation: Cosines and signed sines; none for no rotation.
            slots: Where each row goes, shape [num_rows], int64.
            keys: The layer's cache, shape [num_pages, page_size, num_kv_heads, head_dim].
            values: Like `keys`.

        Returns:
            Queries, shape [num_rows, num_qo_heads, head_dim].
        """


class WholeLayer(Protocol):
    """Runs all of a layer at once, when it can."""

    def __call__(self, x: Tensor, rotation: Rotation | None, parrot: LayerPass) -> Tensor | None:
        """Hidden states after the layer, shape [num_rows, hidden_size] as `x`; none if this step is not for it."""


class RmsNorm(nn.Module):
    """Root mean square norm over the last dimension; computes in float32 as transformers does."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps
        self._shape = tuple(weight.shape)
        self._kernels: LeanKernels | None = None

    def use(self, kernels: LeanKernels | None) -> None:
        """Run by these kernels as far as they can, or by operations of torch."""
        self._kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        if self._kernels is not None:
            return self._kernels.norm(x, self.weight, self.eps)
        return functional.rms_norm(x, self._shape, self.weight, self.eps)


class HeadNorm(nn.Module):
    """Root mean square norm of each head of queries and keys, with a weight for each of the two."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)  # [num_qo_heads + num_kv_heads, head_dim]
        self.eps = eps
        self._shape = tuple(weight.shape[-1:])

    def forward(self, qk: Tensor) -> Tensor:
        return functional.rms_norm(qk, self._shape, None, self.eps).mul_(self.weight)


class TwoNorms(nn.Module):
    """A norm for queries and one for keys: of each head, or of all heads of a row together."""

    def __init__(self, q_norm: nn.Module, k_norm: nn.Module, num_qo_heads: int, *, is_of_heads: bool) -> None:
        super().__init__()
        self.q_norm, self.k_norm = q_norm, k_norm
        self._num_qo, self._is_of_heads = num_qo_heads, is_of_heads

    def forward(self, qk: Tensor) -> Tensor:
        q, k = qk[:, : self._num_qo], qk[:, self._num_qo :]
        if self._is_of_heads:
            return torch.cat([self.q_norm(q), self.k_norm(k)], dim=1)
        return torch.cat([self.q_norm(q.flatten(1)), self.k_norm(k.flatten(1))], dim=1).view(qk.shape)


class Attention(nn.Module):
    """Projections, rotation, and the paged attention between them.

    Args:
        layer: Index of the layer.
        spec: Its attention.
        qkv_proj: Queries, keys and values in one.
        o_proj: Output.
        head_norm: Norm of queries and keys [num_rows, num_heads, head_dim] before the rotation, if any.

    Attributes:
        is_rotated: False for a layer that knows no positions.
    """

    def __init__(
        self,
        *,
        layer: int,
        spec: LayerSpec,
        qkv_proj: nn.Module,
        o_proj: nn.Module,
        head_norm: nn.Module | None,
    ) -> None:
        super().__init__()
        self.qkv_proj, self.o_proj, self.head_norm = qkv_proj, o_proj, head_norm
        self.is_rotated = True
        self.layer = layer
        self._num_qo, self._num_qk = spec.num_qo_heads, spec.num_qo_heads + spec.num_kv_heads
        self._shape = (-1, self._num_qk + spec.num_kv_heads, spec.head_dim)
        self._half = spec.head_dim // 2
        self._kernels: LeanKernels | None = None

    def use(self, kernels: LeanKernels | None) -> None:
        """As `RmsNorm.use`."""
        has_known_norm = self.head_norm is None or isinstance(self.head_norm, HeadNorm)
        can = kernels is not None and has_known_norm and kernels.can_rotate(2 * self._half)
        self._kernels = kernels if can else None

    def forward(self, x: Tensor, rotation: Rotation | None, parrot: LayerPass) -> Tensor:
        qkv = self.qkv_proj(x).view(self._shape)
        rotation = rotation if self.is_rotated else None
        attend = self._attend if self._kernels is None else self._attend_by_kernels
        result: Tensor = self.o_proj(attend(qkv, rotation, parrot).flatten(1))
        return result

    def _attend(self, qkv: Tensor, rotation: Rotation | None, parrot: LayerPass) -> Tensor:
        qk, v = qkv[:, : self._num_qk], qkv[:, self._num_qk :]
        if self.head_norm is not None:
            qk = self.head_norm(qk)
        if rotation is not None:
            cos, sin = rotation
            qk = torch.addcmul(qk * cos, qk.roll(self._half, -1), sin).to(qkv.dtype)  # some rotate in float32
        q, k = qk[:, : self._num_qo], qk[:, self._num_qo :]
        return parrot.context.attend(self.layer, parrot.layers[self.layer], q, k, v)

    def _attend_by_kernels(self, qkv: Tensor, rotation: Rotation | None, parrot: LayerPass) -> Tensor:
        assert self._kernels is not None
        context, layer, norm = parrot.context, self.layer, self.head_norm
        weight, eps = (norm.weight, norm.eps) if isinstance(norm, HeadNorm) else (None, 0.0)
        keys, values = context.pool.keys(layer), context.pool.values(layer)
        q = self._kernels.rotate_and_write(qkv, weight, eps, rotation, context.slots, keys, values)
        return context.run(layer, parrot.layers[layer], q)


class GatedMlp(nn.Module):
    """`down(activation(gate(x)) * up(x))`, gate and up in one projection."""

    def __init__(self, gate_up_proj: nn.Module, down_proj: nn.Module, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = gate_up_proj, down_proj
        self.activation = activation
        self._kernels: LeanKernels | None = None

    def use(self, kernels: LeanKernels | None) -> None:
        """As `RmsNorm.use`."""
        self._kernels = kernels if self.activation is functional.silu else None

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down_proj(self._gate(self.gate_up_proj(x)))
        return result

    def _gate(self, gate_up: Tensor) -> Tensor:
        if self._kernels is not None:
            return self._kernels.gate(gate_up)
        gate, up = gate_up.chunk(2, -1)
        return self.activation(gate).mul_(up)


class ForeignMlp(nn.Module):
    """An MLP of transformers, which wants [1, num_rows, hidden_size]: a mixture of experts, or one without a gate."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.mlp(x[None])[0]
        return result


class LeanLayer(nn.Module):
    """A decoder layer: `x + attention(x)`, then `x + mlp(x)`, each with a norm before it, after it, or both.

    Args:
        attention: Takes and gives [num_rows, hidden_size].
        mlp: Takes and gives [num_rows, hidden_size].
        norms: Before attention, after it, before the MLP, after it; none where there is none.
        residual_scale: What attention and MLP give is multiplied by this before it is added.

    Attributes:
        whole: What may run all of it at once.
    """

    def __init__(
        self,
        *,
        attention: Attention,
        mlp: nn.Module,
        norms: tuple[nn.Module | None, nn.Module | None, nn.Module | None, nn.Module | None],
        residual_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.attention, self.mlp = attention, mlp
        self.before_attention, self.after_attention, self.before_mlp, self.after_mlp = norms
        self.residual_scale = residual_scale
        self.whole: WholeLayer | None = None
        self._kernels: LeanKernels | None = None

    def use(self, kernels: LeanKernels | None) -> None:
        """As `RmsNorm.use`."""
        self._kernels = kernels if isinstance(self.before_mlp, RmsNorm) and self.residual_scale == 1.0 else None
        for part in (
            self.attention,
            self.mlp,
            self.before_attention,
            self.after_attention,
            self.before_mlp,
            self.after_mlp,
        ):
            if isinstance(part, Attention | GatedMlp | RmsNorm):
                part.use(kernels)

    def forward(
        self,
        hidden_states: Tensor,
        *,
        parrot: LayerPass,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **_: Any,
    ) -> Tensor:
        """As transformers calls it. `hidden_states`: shape [1, num_rows, hidden_size], as is the result."""
        x = hidden_states[0]
        rotation = _rotation(parrot, position_embeddings) if position_embeddings is not None else None
        if self.whole is not None and (result := self.whole(x, rotation, parrot)) is not None:
            return result[None]
        h = x if self.before_attention is None else self.before_attention(x)
        h = self.attention(h, rotation, parrot)
        x, h = self._add_and_norm(x, h if self.after_attention is None else self.after_attention(h))
        h = self.mlp(h)
        return self._add(x, h if self.after_mlp is None else self.after_mlp(h))[None]

    def _add_and_norm(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        norm = self.before_mlp
        if self._kernels is not None and isinstance(norm, RmsNorm):
            return self._kernels.add_norm(x, h, norm.weight, norm.eps)
        x = self._add(x, h)
        return x, x if norm is None else norm(x)

    def _add(self, x: Tensor, h: Tensor) -> Tensor:
        return x + h if self.residual_scale == 1.0 else torch.add(x, h, alpha=self.residual_scale)
