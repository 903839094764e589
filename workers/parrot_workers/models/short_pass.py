"""A forward pass in few calls, for models of the plainest kind on a CPU: embedding, layers, norm, head.

What transformers does around the layers takes 2 ms of a step, for every operation finds the caches full of weights.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import structlog
import torch
from torch import Tensor, nn
from torch.nn import functional

from parrot_workers.attention.cpu import CPUBackend
from parrot_workers.models.fusing import make_norm
from parrot_workers.models.lean_layer import LeanLayer, RmsNorm, Rotation, sign_sines
from parrot_workers.models.paged import LayerPass, LayerSpec
from parrot_workers.models.trial import Trial
from parrot_workers.models.whole_layer import WholeLayers, join_layers

__all__ = ["ShortPass", "find_short_pass"]

log = structlog.get_logger(__name__)

_MAX_ERROR = {torch.float32: 1e-4}
_MAX_HALF_ERROR = 0.05
_LOUD = 1000.0
"""Logits so large show what is done to them: a cap, a scale."""


def find_short_pass(model: Any, specs: tuple[LayerSpec, ...], trial: Trial) -> ShortPass | None:
    """The short pass of a model, proven on a trial; none if the model is of another kind."""
    short = _assemble(model)
    if short is None:
        return None
    handle = model.get_output_embeddings().register_forward_hook(lambda module, args, output: output * _LOUD)
    try:
        found, expected = (trial.read(each, specs, backend=CPUBackend()) for each in (short, model))
    except Exception:  # as in fusing: parts that do not fit together are no candidate
        return None
    finally:
        handle.remove()
    if short.num_runs and (found - expected).norm() <= _MAX_ERROR.get(model.dtype, _MAX_HALF_ERROR) * expected.norm():
        return short
    log.info("no_short_pass", model_class=type(model).__name__)
    return None


def _assemble(model: Any) -> ShortPass | None:
    base, head = model.base_model, model.get_output_embeddings()
    layers, norm = getattr(base, "layers", None), getattr(base, "norm", None)
    if not isinstance(layers, nn.ModuleList) or not isinstance(norm, nn.Module) or not isinstance(head, nn.Module):
        return None
    whole = join_layers([layer for layer in layers if isinstance(layer, LeanLayer)])
    embedding, rotary = model.get_input_embeddings(), getattr(base, "rotary_emb", None)
    if whole is None or len(whole.layers) != len(layers) or type(embedding) is not nn.Embedding or rotary is None:
        return None
    final_norm = make_norm(norm)
    if isinstance(final_norm, RmsNorm):
        final_norm.use(whole.kernels)
    return ShortPass(model, whole, rotary, final_norm)


class ShortPass:
    """Called as the model is, with what `run_model` gives; hands on to the model what it cannot run.

    Args:
        model: A model of transformers whose attention is ours.
        layers: All of its layers.
        rotary: Its rotary embedding.
        norm: What its norm before the head does.

    Attributes:
        num_runs: Steps that it ran by itself.
    """

    def __init__(self, model: Any, layers: WholeLayers, rotary: nn.Module, norm: nn.Module) -> None:
        self.dtype: torch.dtype = model.dtype
        self.num_runs = 0
        self._model, self._layers, self._rotary, self._norm = model, layers, rotary, norm
        self._embedding = model.get_input_embeddings()
        self._head = model.get_output_embeddings()
        self._rotations: Rotation | None = None  # of all positions so far

    def __call__(
        self, *, input_ids: Tensor, position_ids: Tensor, logits_to_keep: Tensor, parrot: LayerPass, **others: Any
    ) -> Any:
        """As a causal language model of transformers."""
        x = functional.embedding(input_ids[0], self._embedding.weight)
        hidden = self._layers.run(x, self._rotation(position_ids[0]), parrot.context, parrot.layers)
        if hidden is None:
            return self._model(
                input_ids=input_ids, position_ids=position_ids, logits_to_keep=logits_to_keep, parrot=parrot, **others
            )
        self.num_runs += 1
        return SimpleNamespace(logits=self._head(self._norm(hidden.index_select(0, logits_to_keep)))[None])

    def _rotation(self, positions: Tensor) -> Rotation:
        num_positions = int(positions.max()) + 1
        if self._rotations is None or len(self._rotations[0]) < num_positions:
            num_made = 1 << (num_positions - 1).bit_length()
            places = torch.arange(num_made)[None]
            self._rotations = sign_sines(self._rotary(self._embedding.weight[:1, None], places))
        cos, sin = self._rotations
        return cos.index_select(0, positions), sin.index_select(0, positions)
