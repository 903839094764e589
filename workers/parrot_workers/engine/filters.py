"""Temperature, top-k, top-p, min-p, draw. Rows do not influence each other.

The filters come down to one number per row: a token stays if its weight is at least that threshold. So tokens of equal
probability stay or go together, and nothing has to be put back into the order of the vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

__all__ = ["Filters", "draw", "weigh"]

_MIN_TEMPERATURE = 1e-6  # below, the likeliest token has all the probability anyway
_BLOCK_SIZE = 256  # tokens whose weights are summed before any of them is looked at


class Filters(NamedTuple):
    """How rows are filtered: tensors of shape [num_rows], on the device of the logits.

    Attributes:
        temperature: fp32, above 0.
        top_k: int64, from 1; the size of the vocabulary keeps all.
        top_p: fp32.
        min_p: fp32.
        max_top_k: Largest top-k of the rows that have one, 0 if none has.
        has_threshold: Whether any row has top-k, top-p or min-p.
        has_cut: Whether any row has top-k or top-p.
        has_open_cut: Whether any row has top-p and no top-k, so that any number of tokens may stay.
    """

    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    max_top_k: int
    has_threshold: bool
    has_cut: bool
    has_open_cut: bool


def weigh(logits: torch.Tensor, filters: Filters) -> torch.Tensor:
    """Weights in proportion to the probabilities that temperature, top-k, top-p and min-p leave.

    Top-k keeps the k likeliest tokens and those that are as likely as the last of them. Top-p keeps the fewest of the
    likeliest tokens, among those that top-k left, whose share is at least `top_p`. Min-p keeps tokens at least `min_p`
    times as probable as the likeliest.

    Args:
        logits: Shape [num_rows, vocab_size], fp32.
        filters: Per row.

    Returns:
        Shape [num_rows, vocab_size], fp32. The likeliest token has weight 1, one that cannot be chosen 0.

    Source: transformers `generation/logits_process.py`, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
    and MinPLogitsWarper in this order.
    """
    # The largest logit becomes 0 first: dividing by a small temperature then overflows towards -inf only.
    temperature = filters.temperature.clamp(min=_MIN_TEMPERATURE)[:, None]
    weights = (logits - logits.amax(dim=-1, keepdim=True)).div_(temperature).exp_()
    if not filters.has_threshold:
        return weights
    threshold = filters.min_p[:, None]
    if filters.has_cut:
        threshold = torch.maximum(threshold, _cut(weights, filters))
    return torch.where(weights >= threshold, weights, 0.0)


def draw(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Look a random number up in each row's cumulative distribution over token ids.

    Over ids, not over sorted probabilities: rounding in the logits, which changes with the batch, then moves a boundary
    by about 1e-7 and cannot swap two tokens. First the block of tokens is found, then the token: cumulative sums are
    slow, and only those of one block are needed.

    Args:
        weights: Shape [num_rows, vocab_size].
        uniforms: In [0, 1), shape [num_rows], fp64.

    Returns:
        Token ids, shape [num_rows], int64, none of weight 0. In a row that is not a number, any id.
    """
    num_rows, vocab_size = weights.shape
    padded = torch.nn.functional.pad(weights, (0, -vocab_size % _BLOCK_SIZE))
    blocks = padded.view(num_rows, -1, _BLOCK_SIZE)
    block_sums = blocks.sum(dim=-1, dtype=torch.float64)
    target = uniforms[:, None] * block_sums.sum(dim=-1, keepdim=True)
    block, before = _find(block_sums, target)
    chosen = blocks.gather(1, block[:, :, None].expand(-1, -1, _BLOCK_SIZE))[:, 0].double()  # [num_rows, _BLOCK_SIZE]
    index, _ = _find(chosen, target - before)
    return (block * _BLOCK_SIZE + index)[:, 0].clamp(max=vocab_size - 1)


def _find(weights: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first entry at which the cumulative sum is above the target, and the sum before it; both [num_rows, 1]."""
    sums = weights.cumsum(dim=-1)
    # Rounding must not move the target out of [0, sum): the entry found is then one that raised the sum.
    end = torch.nextafter(sums[:, -1:], torch.zeros_like(target))
    index = torch.searchsorted(sums, target.clamp(min=0.0).minimum(end), right=True).clamp(max=weights.shape[-1] - 1)
    return index, (sums - weights).gather(-1, index)


def _cut(weights: torch.Tensor, filters: Filters) -> torch.Tensor:
    """Least weight that top-k and top-p keep. Returns: shape [num_rows, 1]; 0 in rows with neither."""
    likeliest = _likeliest(weights, filters)  # [num_rows, num_candidates]
    sums = likeliest.cumsum(dim=-1)
    top_k, top_p = filters.top_k[:, None], filters.top_p[:, None]
    last_of_k = top_k.clamp(max=likeliest.shape[-1]) - 1
    # The fewest tokens with the share: those before which the sum is below it.
    last_of_p = torch.searchsorted(sums, top_p * sums.gather(-1, last_of_k))
    last = torch.where(top_p < 1.0, last_of_p.minimum(last_of_k), last_of_k)
    is_open = (top_k >= weights.shape[-1]) & (top_p >= 1.0)
    return likeliest.gather(-1, last).masked_fill(is_open, 0.0)


def _likeliest(weights: torch.Tensor, filters: Filters) -> torch.Tensor:
    """The largest weights of each row in falling order: as many as the filters can keep, or more."""
    if not filters.has_open_cut:
        return weights.topk(filters.max_top_k, dim=-1).values
    if weights.device.type == "cpu":  # numpy sorts with vector instructions, 20 times as fast as torch
        return torch.from_numpy(np.sort(weights.numpy(), axis=-1)).flip(-1)
    return weights.sort(dim=-1, descending=True).values
