"""Temperature, top-k, top-p, min-p, draw. Rows do not influence each other.

The filters come down to one number per row: a token stays if its probability is at least that threshold. So tokens of
equal probability stay or go together, and nothing has to be put back into the order of the vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["Filters", "draw", "filter_probs"]

_MIN_TEMPERATURE = 1e-6  # below, the likeliest token has all the probability anyway
_NUM_CANDIDATES = 256  # likeliest tokens to look at first where looking again costs nothing
_MORE_CANDIDATES = 8


class Filters(NamedTuple):
    """How rows are filtered: tensors of shape [num_rows], on the device of the logits.

    Attributes:
        temperature: fp32, above 0.
        top_k: int64, from 1; the size of the vocabulary keeps all.
        top_p: fp64.
        min_p: fp32.
        max_top_k: Largest top-k of the rows that have one, 0 if none has.
        is_cut: Whether any row has top-k or top-p.
        is_sorted: Whether some row has top-p and no top-k, so that any number of tokens may stay.
    """

    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    max_top_k: int
    is_cut: bool
    is_sorted: bool


def filter_probs(logits: torch.Tensor, filters: Filters) -> torch.Tensor:
    """Probabilities after temperature, top-k, top-p and min-p; what is left does not sum to 1.

    Top-k keeps the k likeliest tokens and those that are as likely as the last of them. Top-p keeps the fewest of the
    likeliest tokens, among those that top-k left, whose share is at least `top_p`. Min-p keeps tokens at least `min_p`
    times as probable as the likeliest.

    Args:
        logits: Shape [num_rows, vocab_size], fp32.
        filters: Per row.

    Returns:
        Shape [num_rows, vocab_size], fp32; 0 where a token cannot be chosen.

    Source: transformers `generation/logits_process.py`, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
    and MinPLogitsWarper in this order.
    """
    # The largest logit becomes 0 first: dividing by a small temperature then overflows towards -inf only.
    temperature = filters.temperature.clamp(min=_MIN_TEMPERATURE)[:, None]
    probs = ((logits - logits.amax(dim=-1, keepdim=True)) / temperature).softmax(dim=-1)
    threshold = filters.min_p[:, None] * probs.amax(dim=-1, keepdim=True)
    if filters.is_cut:
        threshold = torch.maximum(threshold, _cut(probs, filters))
    return torch.where(probs >= threshold, probs, 0.0)


def draw(probs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Look a random number up in each row's cumulative distribution over token ids.

    Over ids, not over sorted probabilities: rounding in the logits, which changes with the batch, then moves a boundary
    by about 1e-7 and cannot swap two tokens.

    Args:
        probs: Shape [num_rows, vocab_size]; need not sum to 1.
        uniforms: In [0, 1), shape [num_rows], fp64.

    Returns:
        Token ids, shape [num_rows], int64, none of probability 0. In a row that is not a number, any id.
    """
    sums = probs.cumsum(dim=-1, dtype=torch.float64)
    # The first sum above the target belongs to a token that raised it. A product of fp64 numbers of which one is below
    # 1 stays below the other, so the target is below the total.
    target = uniforms[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, target, right=True)[:, 0].clamp(max=probs.shape[-1] - 1)


def _cut(probs: torch.Tensor, filters: Filters) -> torch.Tensor:
    """Least probability that top-k and top-p keep. Returns: shape [num_rows, 1]; 0 in rows with neither."""
    likeliest = _likeliest(probs, filters)  # [num_rows, num_candidates]
    ranks = torch.arange(likeliest.shape[-1], device=probs.device)
    is_kept = ranks < filters.top_k[:, None]
    shares = likeliest.double().masked_fill(~is_kept, 0.0)
    before = shares.cumsum(dim=-1) - shares  # probability of all likelier tokens
    top_p = filters.top_p[:, None]
    is_kept &= (before < top_p * _kept_by_top_k(probs, shares, filters)) | (top_p >= 1.0)
    last = is_kept.sum(dim=-1, keepdim=True) - 1
    threshold = likeliest.gather(-1, last.clamp(min=0))
    return threshold.masked_fill(((filters.top_k >= probs.shape[-1]) & (filters.top_p >= 1.0))[:, None], 0.0)


def _kept_by_top_k(probs: torch.Tensor, shares: torch.Tensor, filters: Filters) -> torch.Tensor:
    """Probability of all tokens that top-k leaves, shape [num_rows, 1], fp64."""
    everything = probs.sum(dim=-1, keepdim=True, dtype=torch.float64)
    return torch.where((filters.top_k < probs.shape[-1])[:, None], shares.sum(dim=-1, keepdim=True), everything)


def _likeliest(probs: torch.Tensor, filters: Filters) -> torch.Tensor:
    """The largest probabilities of each row in falling order: as many as the filters can keep, or more."""
    vocab_size = probs.shape[-1]
    if not filters.is_sorted:
        return probs.topk(filters.max_top_k, dim=-1).values
    if probs.device.type != "cpu":
        return probs.sort(dim=-1, descending=True).values
    # A CPU sorts slowly (8 ms for 32,000 tokens), and sees at once whether a few were enough: they mostly are.
    num = min(max(_NUM_CANDIDATES, filters.max_top_k), vocab_size)
    while num < vocab_size:
        likeliest = probs.topk(num, dim=-1).values
        shares = likeliest.sum(dim=-1, dtype=torch.float64)
        needed = filters.top_p * probs.sum(dim=-1, dtype=torch.float64)
        if bool(((shares >= needed) | (filters.top_k <= num) | (filters.top_p >= 1.0)).all()):
            return likeliest
        num = min(num * _MORE_CANDIDATES, vocab_size)
    return probs.sort(dim=-1, descending=True).values
