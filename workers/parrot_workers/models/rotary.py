"""Rotary embeddings that do not depend on what else is in the batch."""

from __future__ import annotations

from typing import Any

__all__ = ["freeze_rotary"]


def freeze_rotary(model: Any) -> int | None:
    """Keep the frequencies of all rotary embeddings as they are at the start of a text.

    Two kinds choose their frequencies anew in every forward pass by the greatest position in it: `longrope` beyond the
    length that the model was first trained on, `dynamic` beyond its context. In a packed batch one long text would
    change all others, and on a GPU the choice may wait for the device.

    Returns:
        Most tokens of a text for which this is what transformers computes; none if there is no such limit.
    """
    limits = []
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if isinstance(kinds, str) and _is_chosen_anew(kinds):
            limits += _limits(kinds, module.config.rope_parameters)
            module.rope_type = "default"
        elif isinstance(kinds, dict):
            for layer_type in [name for name, kind in kinds.items() if _is_chosen_anew(kind)]:
                limits += _limits(kinds[layer_type], module.config.rope_parameters[layer_type])
                kinds[layer_type] = "default"
    return min(limits, default=None)


def _is_chosen_anew(kind: str) -> bool:
    return kind == "longrope" or "dynamic" in kind


def _limits(kind: str, parameters: dict[str, Any]) -> list[int]:
    return [parameters["original_max_position_embeddings"]] if kind == "longrope" else []
