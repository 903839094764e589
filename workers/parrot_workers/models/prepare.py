"""From a model of transformers to one that runs over the paged cache, proven at each turn."""

from __future__ import annotations

from typing import Any

from parrot_workers.models.fusing import find_kernels, fuse_layers
from parrot_workers.models.memory import use_huge_pages
from parrot_workers.models.packed_linear import pack_linears
from parrot_workers.models.paged import LayerSpec, use_paged_attention
from parrot_workers.models.probe import check_reading, learn_layers
from parrot_workers.models.progress import Report
from parrot_workers.models.short_pass import ShortPass, find_short_pass
from parrot_workers.models.trial import Trial
from parrot_workers.models.whole_layer import use_whole_layers

__all__ = ["prepare"]


def prepare(
    model: Any, vocab_size: int, max_context_tokens: int, *, is_fused: bool, is_packed: bool, report: Report
) -> tuple[tuple[LayerSpec, ...], ShortPass | None]:
    """Learn how a model attends, give it our attention, and make it fast where that is asked for.

    Returns:
        Attention of each layer; and its short pass if it has one.

    Raises:
        Unsupported: The model cannot run over the paged cache.
    """
    report("probe", 0.0)
    trial = Trial(vocab_size, model.device)
    layers, logits = learn_layers(model, trial, max_context_tokens)
    use_paged_attention(model)
    check_reading(model, layers, trial, logits)
    report("probe", 1.0)
    if is_fused:
        report("fuse layers", 0.0)
        fuse_layers(model, layers, trial, kernels=find_kernels(model.device, model.dtype))
    if is_packed:
        pack_linears(model, report)
        use_whole_layers(model, layers)
    if model.device.type == "cpu":
        use_huge_pages(model)
    if is_fused or is_packed:
        check_reading(model, layers, trial, logits)
    return layers, find_short_pass(model, layers, trial) if model.device.type == "cpu" else None
