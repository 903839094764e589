"""Helpers of the sampler's tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from parrot_workers.engine.sampled import Sampled
from parrot_workers.engine.sampler import Sampler
from parrot_workers.engine.sampling_rows import SamplingRow

from parrot_mq.types import Sampling

__all__ = ["make_logits", "open_rows", "sample_once"]


def make_logits(seed: int, num_rows: int, vocab_size: int = 50) -> torch.Tensor:
    """Normal logits, shape [num_rows, vocab_size], fp32."""
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * 3


def open_rows(sampler: Sampler, samplings: Sequence[Sampling], seeds: Sequence[int]) -> list[SamplingRow]:
    """Rows without a prompt."""
    return [sampler.open(each, seed=seed) for each, seed in zip(samplings, seeds, strict=True)]


def sample_once(
    logits: torch.Tensor,
    samplings: Sequence[Sampling],
    *,
    seeds: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    eos_token_ids: Sequence[int] = (),
) -> Sampled:
    """One step of rows without a prompt."""
    num_rows, vocab_size = logits.shape
    sampler = Sampler(vocab_size=vocab_size, eos_token_ids=eos_token_ids, device=logits.device)
    rows = open_rows(sampler, samplings, seeds or [0] * num_rows)
    return sampler.sample(logits, sampler.rows(rows), np.array(positions or [0] * num_rows))
