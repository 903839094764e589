"""What temperature, top-k, top-p and min-p keep, and that draws follow the probabilities that are left."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import transformers as untyped_transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from parrot_workers.engine.filters import Filters, draw, weigh
from parrot_workers.engine.random_numbers import seeds_array, uniforms
from parrot_workers.engine.sampler import Sampler

from parrot_mq.types import Sampling
from tests.workers.sampling import make_logits, open_rows

transformers: Any = untyped_transformers

_temperatures = st.sampled_from([0.3, 1.0, 10.0])
_top_k = st.sampled_from([0, 2, 5, 50, 1000])
_top_p = st.sampled_from([0.01, 0.3, 0.9, 0.999, 1.0])
_min_p = st.sampled_from([0.0, 0.01, 0.2, 1.0])
_samplings = st.builds(Sampling, temperature=_temperatures, top_k=_top_k, top_p=_top_p, min_p=_min_p)


def _make_filters(samplings: list[Sampling], vocab_size: int) -> Filters:
    sampler = Sampler(vocab_size=vocab_size, eos_token_ids=[])
    return sampler.rows(open_rows(sampler, samplings, [0] * len(samplings))).filters


def _expect(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Probabilities of one row by transformers' processors, in the order in which `generate` has them."""
    scores = transformers.TemperatureLogitsWarper(sampling.temperature)(None, logits[None])
    if sampling.top_k:
        scores = transformers.TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = transformers.TopPLogitsWarper(sampling.top_p)(None, scores)
    if sampling.min_p:
        scores = transformers.MinPLogitsWarper(sampling.min_p)(None, scores)
    probs: torch.Tensor = scores.softmax(-1)[0]
    return probs


@given(seed=st.integers(0, 1000), samplings=st.lists(_samplings, min_size=1, max_size=5))
def test_filters_keep_what_transformers_keeps(seed: int, samplings: list[Sampling]) -> None:
    logits = make_logits(seed, len(samplings))
    kept = weigh(logits, _make_filters(samplings, 50))
    expected = torch.stack([_expect(row, sampling) for row, sampling in zip(logits, samplings, strict=True)])
    torch.testing.assert_close(kept / kept.sum(-1, keepdim=True), expected)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000), samplings=st.lists(_samplings, min_size=1, max_size=3), scale=st.sampled_from([0.01, 1])
)
def test_a_large_vocabulary_is_filtered_alike(seed: int, samplings: list[Sampling], scale: float) -> None:
    """Flat and peaked: top-p finds its tokens among the first candidates, or has to look at all."""
    logits = make_logits(seed, len(samplings), 3000) * scale
    kept = weigh(logits, _make_filters(samplings, 3000))
    expected = torch.stack([_expect(row, sampling) for row, sampling in zip(logits, samplings, strict=True)])
    torch.testing.assert_close(kept / kept.sum(-1, keepdim=True), expected, rtol=1e-4, atol=1e-6)


def test_tokens_of_equal_probability_stay_or_go_together() -> None:
    logits = torch.tensor([[2.0, 1.0, 1.0, 0.0]])
    for sampling in (Sampling(temperature=1.0, top_k=2), Sampling(temperature=1.0, top_p=0.7)):
        assert (weigh(logits, _make_filters([sampling], 4)) > 0).tolist() == [[True, True, True, False]]


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), temperature=st.sampled_from([1e-300, 1e-9, 1e-6]))
def test_a_tiny_temperature_is_greedy(seed: int, temperature: float) -> None:
    logits = make_logits(seed, 2) * 100
    weights = weigh(logits, _make_filters([Sampling(temperature=temperature)] * 2, 50))
    assert draw(weights, torch.tensor([0.999, 0.001], dtype=torch.float64)).tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("number", [0.0, 1.0 - 2.0**-53])
@pytest.mark.parametrize("total", [1.0, 0.3, 7.0])
def test_the_ends_of_the_unit_interval_draw_possible_tokens(number: float, total: float) -> None:
    weights = torch.zeros(1, 1000)
    weights[0, 10], weights[0, 900] = total / 3, total / 3 * 2
    assert draw(weights, torch.tensor([number], dtype=torch.float64)).tolist() == [10 if number == 0.0 else 900]


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 1e-8, 0.3, 1.0]), min_size=1, max_size=600).filter(any),
    number=st.floats(0, 1, exclude_max=True),
)
def test_a_draw_is_where_the_cumulative_distribution_passes_the_number(weights: list[float], number: float) -> None:
    """Whichever block it lies in."""
    [token] = draw(torch.tensor([weights]), torch.tensor([number], dtype=torch.float64)).tolist()
    assert weights[token] > 0
    target = number * math.fsum(weights)
    assert math.fsum(weights[:token]) <= target * (1 + 1e-9) + 1e-30
    assert math.fsum(weights[: token + 1]) >= target * (1 - 1e-9)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=1.0), [0.4, 0.25, 0.2, 0.1, 0.05]),
        (Sampling(temperature=1.0, top_k=3), [0.4, 0.25, 0.2, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.6), [0.4, 0.25, 0, 0, 0]),
        (Sampling(temperature=1.0, min_p=0.25), [0.4, 0.25, 0.2, 0.1, 0]),
    ],
)
def test_draws_follow_the_probabilities(sampling: Sampling, kept: list[float]) -> None:
    """Pearson's chi-square test over 20,000 positions of one seed."""
    num = 20_000
    logits = torch.tensor([0.4, 0.25, 0.2, 0.1, 0.05]).log().expand(num, -1)
    weights = weigh(logits, _make_filters([sampling] * num, 5))
    numbers = uniforms(seeds_array([7] * num), np.arange(num))
    counts = torch.bincount(draw(weights, torch.from_numpy(numbers)), minlength=5)
    expected = torch.tensor(kept, dtype=torch.float64) / sum(kept) * num
    assert (counts[expected == 0] == 0).all()
    is_possible = expected > 0
    chi_squared = ((counts - expected)[is_possible] ** 2 / expected[is_possible]).sum()
    assert chi_squared < 18.5  # 99.9 % of 4 degrees of freedom
