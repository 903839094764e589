"""Run a transformers model over the paged KV cache: packed tokens in, logits out, no Cache object, no mask.

All sequences of a step lie one after another in one row, `[1, num_rows]`. Every attention layer calls `attend`, which
writes the new keys and values to the pool and lets the backend read whatever its plan says. The context of the step
travels as a keyword argument through the model, so two engines can live in one process.

Source: transformers, documentation page "Attention Interface".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from parrot_workers.models.extra import import_extra

if TYPE_CHECKING:
    import torch

    from parrot_workers.attention.base import AttentionBackend
    from parrot_workers.kv_cache.pool import KVPool
    from parrot_workers.models.loaded_model import LoadedModel

__all__ = [
    "ATTENTION",
    "ForwardContext",
    "LayerPass",
    "LayerSpec",
    "attend",
    "forward",
    "run_model",
    "use_paged_attention",
]

ATTENTION = "parrot_paged"
"""Name of our attention among those of transformers."""


class Unsupported(Exception):
    """A model cannot run over the paged cache. The text goes on from "its architecture"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """Attention of one layer.

    Attributes:
        num_qo_heads: Heads of queries and outputs.
        num_kv_heads: Heads of keys and values.
        head_dim: Size of a head.
        window: Tokens that a query sees, itself included; none sees all before it.
        softcap: Scores go through `softcap * tanh(score / softcap)`; none leaves them.
        scale: Scores are products of queries and keys times this.
    """

    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    window: int | None
    softcap: float | None
    scale: float


@dataclass(slots=True)
class ForwardContext:
    """What the attention layers of one step need.

    Attributes:
        pool: Keys and values of all layers.
        backend: Has been given the plan of this step.
        slots: Where each row's keys and values go, shape [num_rows], int64, on the model's device.
    """

    pool: KVPool
    backend: AttentionBackend
    slots: torch.Tensor

    def attend(self, layer: int, spec: LayerSpec, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Write the rows' keys and values, then let the rows attend.

        Args:
            layer: Index of the layer.
            spec: Its attention.
            q: Shape [num_rows, num_qo_heads, head_dim].
            k: Shape [num_rows, num_kv_heads, head_dim].
            v: Like `k`.

        Returns:
            Shape [num_rows, num_qo_heads, head_dim].
        """
        self.pool.write(layer, self.slots, k, v)
        return self.run(layer, spec, q)

    def run(self, layer: int, spec: LayerSpec, q: torch.Tensor) -> torch.Tensor:
        """Let the rows attend; their keys and values are written. Shapes as in `attend`."""
        keys, values = self.pool.keys(layer), self.pool.values(layer)
        return self.backend.run(q, keys, values, scale=spec.scale, softcap=spec.softcap, window=spec.window)


@dataclass(slots=True)
class LayerPass:
    """What `forward` hands through transformers to every layer.

    Attributes:
        context: Pool, backend and slots of the step.
        layers: Attention of each layer.
        rotations: What lean layers make of position embeddings, by their id; made once for all of them.
    """

    context: ForwardContext
    layers: tuple[LayerSpec, ...]
    rotations: dict[int, Any] = field(default_factory=dict)


def forward(
    model: LoadedModel,
    input_ids: torch.Tensor,
    positions: torch.Tensor,
    logit_rows: torch.Tensor,
    context: ForwardContext,
) -> torch.Tensor:
    """Run the model over the new tokens of a step.

    Args:
        model: What to run.
        input_ids: New tokens of all sequences, packed in the order of the plan, shape [num_rows], int64.
        positions: Place of each in its sequence, shape [num_rows], int64.
        logit_rows: Rows whose logits are wanted, shape [num_logits], int64.
        context: Pool, backend and slots.

    Returns:
        Logits of these rows, shape [num_logits, vocab_size], the model's dtype.
    """
    return run_model(model.short_pass or model.model, model.layers, input_ids, positions, logit_rows, context)


def run_model(
    model: Any,
    layers: tuple[LayerSpec, ...],
    input_ids: torch.Tensor,
    positions: torch.Tensor,
    logit_rows: torch.Tensor,
    context: ForwardContext,
) -> torch.Tensor:
    """As `forward`, for a model of transformers that calls `attend`, and the attention of its layers."""
    import torch

    with torch.inference_mode():
        output = model(
            input_ids=input_ids[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=logit_rows,
            parrot=LayerPass(context, layers),
        )
    logits: torch.Tensor = output.logits[0]
    return logits


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    parrot: LayerPass,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer, as transformers calls it.

    What a layer says of window, softcap and scale is not read here: `LayerSpec` holds what the probe proved.

    Args:
        module: The attention module.
        query: Shape [1, num_qo_heads, num_rows, head_dim], positions applied.
        key: Shape [1, num_kv_heads, num_rows, head_dim], positions applied.
        value: Like `key`.
        attention_mask: None; transformers makes no mask for an attention that it does not know.
        parrot: From `forward`.

    Returns:
        Shape [1, num_rows, num_qo_heads, head_dim], and no weights.
    """
    layer = module.layer_idx
    q, k, v = query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)
    out = parrot.context.attend(layer, parrot.layers[layer], q.contiguous(), k, v)
    return out[None], None


def use_paged_attention(model: Any) -> None:
    """Make a transformers model call `attend`. From then on it runs by `forward` only."""
    import_extra("transformers").AttentionInterface.register(ATTENTION, attend)
    model.set_attn_implementation(ATTENTION)
