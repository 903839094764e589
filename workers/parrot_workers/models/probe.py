"""Learn how a model attends by watching it read a few tokens, and refuse what our attention cannot do.

The model runs once by its own code, with its own eager attention. We stand in front of that attention and see what
each layer asks for: heads, scale, softcap. What a query sees is taken from the rule that transformers builds the
layer's mask from, at every distance up to the longest context, so a window is known exactly although the probe reads a
few tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from parrot_workers.models.extra import import_extra
from parrot_workers.models.paged import LayerSpec

if TYPE_CHECKING:
    import torch

__all__ = ["Unsupported", "learn_layers"]

_PROBE = "parrot_probe"
_NUM_TOKENS = 8
_KNOWN_ARGUMENTS = {"dropout", "scaling", "sliding_window", "softcap", "position_ids", "use_cache"}


class Unsupported(Exception):
    """The model attends in a way that the paged attention does not know. The text goes on from "its architecture"."""


@dataclass(slots=True)
class _Observer:
    """Collects what the attention layers ask for, in one forward pass."""

    max_context_tokens: int
    layers: dict[int, LayerSpec] = field(default_factory=dict)
    windows: dict[Callable[..., Any], int | None] = field(default_factory=dict)

    def see(self, module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, arguments: Any) -> None:
        if q.shape[-1] != k.shape[-1] or k.shape != v.shape or q.shape[1] % k.shape[1]:
            raise Unsupported("has keys and values of different shapes")
        for name, value in arguments.items():
            if name not in _KNOWN_ARGUMENTS and value is not None and value is not False:
                raise Unsupported(f"has an attention with {name!r}")
        layer = getattr(module, "layer_idx", None)
        if layer is None or layer in self.layers:
            raise Unsupported("does not say which of its layers attends")
        scale = arguments.get("scaling")
        self.layers[layer] = LayerSpec(
            num_qo_heads=q.shape[1],
            num_kv_heads=k.shape[1],
            head_dim=q.shape[-1],
            window=self._window(mask),
            softcap=arguments.get("softcap"),
            scale=q.shape[-1] ** -0.5 if scale is None else float(scale),
        )

    def _window(self, mask: Any) -> int | None:
        rule = getattr(mask, "parrot_rule", None)
        if rule is None:
            raise Unsupported("makes its attention mask in a way of its own")
        if rule not in self.windows:
            self.windows[rule] = _find_window(rule, self.max_context_tokens)
        return self.windows[rule]


def learn_layers(model: Any, max_context_tokens: int) -> tuple[LayerSpec, ...]:
    """Watch a transformers model read a few tokens.

    Raises:
        Unsupported: It attends in a way that the paged attention does not know.
    """
    torch = import_extra("torch")
    if not model._supports_attention_backend:
        raise Unsupported("does not let its attention be replaced")
    _register()
    before = model.config._attn_implementation
    observer = _Observer(max_context_tokens)
    model.set_attn_implementation(_PROBE)
    try:
        with torch.inference_mode():
            input_ids = torch.arange(_NUM_TOKENS, device=model.device)[None]
            model(input_ids=input_ids, use_cache=False, parrot=observer)
    finally:
        model.set_attn_implementation(before)
    if sorted(observer.layers) != list(range(len(observer.layers))) or not observer.layers:
        raise Unsupported("has layers without attention")
    return tuple(observer.layers[layer] for layer in range(len(observer.layers)))


def _register() -> None:
    transformers = import_extra("transformers")
    transformers.AttentionInterface.register(_PROBE, _watch)
    transformers.AttentionMaskInterface.register(_PROBE, _make_mask)


def _watch(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, *, parrot: _Observer, **kw: Any) -> Any:
    """See what the layer asks for, then let its own eager attention answer."""
    parrot.see(module, query, key, value, attention_mask, kw)
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if eager is None:
        raise Unsupported("has no attention of its own to compare with")
    return eager(module, query, key, value, attention_mask, **kw)


def _make_mask(*, mask_function: Callable[..., Any], **arguments: Any) -> Any:
    """The mask that eager attention takes, with the rule that made it."""
    eager_mask = import_extra("transformers.masking_utils").eager_mask
    mask = eager_mask(mask_function=mask_function, **arguments)
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
    torch = import_extra("torch")
    zero, keys = torch.tensor(0), torch.arange(num_tokens)
    num_seen = int(rule(zero, zero, keys[-1], keys).sum())
    places = {0, 1, 2, num_seen - 1, num_seen, num_seen + 1, num_tokens // 2, num_tokens - 2, num_tokens - 1}
    for query in (keys[place] for place in places if 0 <= place < num_tokens):
        if not torch.equal(rule(zero, zero, query, keys), (keys <= query) & (keys > query - num_seen)):
            raise Unsupported("has an attention mask that is neither causal nor a sliding window")
    return num_seen if num_seen < num_tokens else None
