"""Logits to token ids. Rows do not influence each other, and nothing is drawn from a generator with a state.

The order is fixed: temperature, top-k, top-p, draw. One uniform number per row is looked up in the cumulative
distribution over token ids. Ids, not sorted probabilities: rounding in the logits, which changes with the batch, then
moves a boundary by about 1e-7 and cannot swap two tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from parrot_mq.types import Sampling

__all__ = ["filter_probs", "sample"]

_MIN_TEMPERATURE = 1e-6  # below, the likeliest token has all the probability anyway


def sample(logits: torch.Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    """Choose the next token of each row.

    Args:
        logits: Shape [num_rows, vocab_size], any floating dtype, any device; no NaN.
        samplings: How to choose, per row.
        uniforms: Random number in [0, 1) of each row; not used where the temperature is 0.

    Returns:
        Token ids. With temperature 0 the likeliest token; of equals the lowest id.
    """
    tokens = logits.argmax(dim=-1)
    drawn = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if drawn:
        rows = torch.tensor(drawn, device=logits.device)
        probs = filter_probs(logits[rows], [samplings[row] for row in drawn])
        tokens[rows] = _draw(probs, [uniforms[row] for row in drawn])
    ids: list[int] = tokens.tolist()
    return ids


def filter_probs(logits: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """Probabilities after temperature, top-k and top-p; what is left does not sum to 1.

    Top-p keeps the fewest of the likeliest tokens, among those that top-k left, whose share is at least `top_p`.

    Args:
        logits: Shape [num_rows, vocab_size].
        samplings: Per row, with temperatures above 0.

    Returns:
        Shape [num_rows, vocab_size], fp32; 0 where a token cannot be chosen.
    """
    device, vocab_size = logits.device, logits.shape[-1]
    temperature = torch.tensor([max(s.temperature, _MIN_TEMPERATURE) for s in samplings], device=device)
    logits = logits.float()
    # The largest logit becomes 0 first: dividing by a small temperature then overflows towards -inf only.
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / temperature[:, None]
    probs = scaled.softmax(dim=-1)
    if all(s.top_p == 1.0 and not 0 < s.top_k < vocab_size for s in samplings):
        return probs
    top_k = torch.tensor([s.top_k or vocab_size for s in samplings], device=device)
    top_p = torch.tensor([s.top_p for s in samplings], dtype=torch.float64, device=device)
    # Stable: of equals the lowest id comes first.
    likeliest, ids = probs.sort(dim=-1, descending=True, stable=True)  # [num_rows, vocab_size]
    ranks = torch.arange(vocab_size, device=device)
    likeliest = likeliest.double().masked_fill(ranks >= top_k[:, None], 0.0)
    sums = likeliest.cumsum(dim=-1)
    before = sums - likeliest  # probability of all likelier tokens
    is_cut = (before >= top_p[:, None] * sums[:, -1:]) & (ranks > 0) & (top_p < 1.0)[:, None]
    is_cut |= ranks >= top_k[:, None]
    return probs.masked_fill(torch.zeros_like(is_cut).scatter(-1, ids, is_cut), 0.0)


def _draw(probs: torch.Tensor, uniforms: Sequence[float]) -> torch.Tensor:
    """Invert the cumulative distribution. Returns: token ids, shape [num_rows], int64; never one of probability 0."""
    sums = probs.double().cumsum(dim=-1)
    total = sums[:, -1:]
    target = torch.tensor(uniforms, dtype=torch.float64, device=probs.device)[:, None] * total
    # The first sum above the target belongs to a token that raised it. The target stays below the total.
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(sums, target, right=True)[:, 0]
