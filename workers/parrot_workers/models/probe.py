"""Learn how a model attends by watching it read a few tokens, and refuse what our attention cannot do.

The model runs by its own code, with its own eager attention. We stand in front of that attention and see what each
layer asks for: heads, scale, softcap. What a query sees is taken from the rule that transformers builds the layer's
mask from, at every distance up to the longest context, so a window is known exactly although the probe reads a few
tokens. Then our attention answers the same question in float32, and has to agree.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from parrot_workers.models.extra import import_extra
from parrot_workers.models.paged import LayerSpec, Unsupported
from parrot_workers.models.trial import Trial

__all__ = ["check_reading", "learn_layers"]

_PROBE = "parrot_probe"
_KNOWN_ARGUMENTS = {"dropout", "scaling", "sliding_window", "softcap", "position_ids", "use_cache"}
_MAX_ATTENTION_ERROR = 1e-4
_MAX_ERROR = {torch.float32: 1e-3}
_MAX_HALF_ERROR = 0.3
"""Half types round after every operation, and many layers make much of it; another text would be off by 1.4."""


@dataclass(slots=True)
class _Observer:
    """Collects what the attention layers ask for, in one forward pass."""

    trial: Trial
    max_context_tokens: int
    layers: dict[int, LayerSpec] = field(default_factory=dict)
    windows: dict[Callable[..., Any], int | None] = field(default_factory=dict)

    def see(self, module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, arguments: dict[str, Any]) -> None:
        if q.shape[-1] != k.shape[-1] or k.shape != v.shape or q.shape[1] % k.shape[1]:
            raise Unsupported("has keys and values of different shapes")
        for name, value in arguments.items():
            if name not in _KNOWN_ARGUMENTS and value is not None and value is not False:
                raise Unsupported(f"has an attention with {name!r}")
        layer = getattr(module, "layer_idx", None)
        if layer is None or layer in self.layers:
            raise Unsupported("does not say which of its layers attends")
        scale = arguments.get("scaling")
        spec = self.layers[layer] = LayerSpec(
            num_qo_heads=q.shape[1],
            num_kv_heads=k.shape[1],
            head_dim=q.shape[-1],
            window=self._window(mask),
            softcap=arguments.get("softcap"),
            scale=q.shape[-1] ** -0.5 if scale is None else float(scale),
        )
        exact = (q.float(), k.float(), v.float(), mask.float())
        own, ours = _eager(module)(module, *exact, **arguments)[0], self._attend(spec, *exact[:3])
        if not (ours - own.flatten(0, 1)).norm() <= _MAX_ATTENTION_ERROR * own.norm():
            raise Unsupported("has an attention that is not the scaled product of queries and keys")

    def _window(self, mask: Any) -> int | None:
        rule = getattr(mask, "parrot_rule", None)
        if rule is None:
            raise Unsupported("makes its attention mask in a way of its own")
        if rule not in self.windows:
            self.windows[rule] = _find_window(rule, self.max_context_tokens)
        return self.windows[rule]

    def _attend(self, spec: LayerSpec, *qkv: Tensor) -> Tensor:
        """Our attention. Returns: shape [num_rows, num_qo_heads, head_dim]."""
        context = self.trial.make_context([spec], torch.float32)
        q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in qkv)
        return context.attend(0, spec, q, k, v)


def learn_layers(model: Any, trial: Trial, max_context_tokens: int) -> tuple[tuple[LayerSpec, ...], Tensor]:
    """Watch a transformers model read the texts of a trial.

    Returns:
        Attention of each layer, and the logits, shape [2, 8, vocab_size], float32.

    Raises:
        Unsupported: It attends in a way that the paged attention does not know.
    """
    if not model._supports_attention_backend:
        raise Unsupported("does not let its attention be replaced")
    transformers = import_extra("transformers")
    transformers.AttentionInterface.register(_PROBE, _watch)
    transformers.AttentionMaskInterface.register(_PROBE, _make_mask)
    model.set_attn_implementation(_PROBE)
    observer = _Observer(trial, max_context_tokens)
    with torch.inference_mode():
        logits = model(input_ids=trial.input_ids, use_cache=False, parrot=observer).logits.float()
    if sorted(observer.layers) != list(range(len(observer.layers))) or not observer.layers:
        raise Unsupported("has layers without attention")
    return tuple(observer.layers[layer] for layer in range(len(observer.layers))), logits


def check_reading(model: Any, layers: tuple[LayerSpec, ...], trial: Trial, logits: Tensor) -> None:
    """The model reads over a paged cache, in two steps, what it read by its own code.

    Raises:
        Unsupported: It does not, as one that keeps a state that is no attention cache.
    """
    if not logits.isfinite().all():
        raise Unsupported(f"gives logits that are not numbers in {str(model.dtype).removeprefix('torch.')}")
    wanted = logits - logits.mean(-1, keepdim=True)
    ours = trial.read(model, layers)
    errors = (ours - ours.mean(-1, keepdim=True) - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    # The median of each part, since in a half type a token may be sent to another expert.
    error = max(errors[text, begin:end].median().item() for text, begin, end in trial.parts)
    if not error <= _MAX_ERROR.get(model.dtype, _MAX_HALF_ERROR):
        raise Unsupported(f"reads otherwise over a paged cache (logits differ by {error:.2g})")


def _watch(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *, parrot: Any = None, **kwargs: Any
) -> Any:
    """See what the layer asks for, then let its own eager attention answer."""
    if parrot is None:
        raise Unsupported("does not pass on to its attention what it is given")
    parrot.see(module, query, key, value, attention_mask, kwargs)
    return _eager(module)(module, query, key, value, attention_mask, **kwargs)


def _eager(module: Any) -> Callable[..., Any]:
    """The attention that comes with the module's code."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if eager is None:
        raise Unsupported("has no attention of its own to compare with")
    found: Callable[..., Any] = eager
    return found


def _make_mask(*, mask_function: Callable[..., Any], **arguments: Any) -> Any:
    """The mask that eager attention takes, with the rule that made it; none where all is seen."""
    mask = import_extra("transformers.masking_utils").eager_mask(mask_function=mask_function, **arguments)
    if mask is not None:
        mask.parrot_rule = mask_function
    return mask


def _find_window(rule: Callable[..., Any], num_tokens: int) -> int | None:
    """Tokens that a query sees by `rule`, itself included; none if it sees all before it.

    Args:
        rule: Mask function of transformers: (batch, head, query position, key position) -> seen.
        num_tokens: Longest context.

    Raises:
        Unsupported: The rule is neither causal nor a causal window.
    """
    zero, keys = torch.tensor(0), torch.arange(num_tokens)
    num_seen = int(rule(zero, zero, keys[-1], keys).sum())
    places = {0, 1, 2, num_seen - 1, num_seen, num_seen + 1, num_tokens // 2, num_tokens - 2, num_tokens - 1}
    for query in (keys[place] for place in places if 0 <= place < num_tokens):
        if not torch.equal(rule(zero, zero, query, keys), (keys <= query) & (keys > query - num_seen)):
            raise Unsupported("has an attention mask that is neither causal nor a sliding window")
    return num_seen if num_seen < num_tokens else None
