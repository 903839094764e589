"""Logits become tokens by the same rule in every row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as untyped_transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from parrot_workers.engine.random_numbers import uniform
from parrot_workers.engine.sampler import filter_probs, sample

from parrot_mq.types import Sampling

transformers: Any = untyped_transformers

_samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-9, 0.3, 1.0, 10.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 1000]),
    top_p=st.sampled_from([1e-6, 0.3, 0.9, 1.0]),
)
_uniforms = st.floats(0, 1, exclude_max=True)


def _make_logits(seed: int, num_rows: int, vocab_size: int = 50) -> torch.Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * 3


@given(seed=st.integers(0, 1000), rows=st.lists(st.tuples(_samplings, _uniforms), min_size=1, max_size=6))
def test_a_row_does_not_depend_on_its_batch(seed: int, rows: list[tuple[Sampling, float]]) -> None:
    logits = _make_logits(seed, len(rows))
    samplings, uniforms = zip(*rows, strict=True)
    together = sample(logits, samplings, uniforms)
    alone = [sample(logits[i : i + 1], [samplings[i]], [uniforms[i]])[0] for i in range(len(rows))]
    assert together == alone


@given(seed=st.integers(0, 1000), sampling=_samplings, number=_uniforms)
def test_a_token_is_one_that_the_filters_left(seed: int, sampling: Sampling, number: float) -> None:
    logits = _make_logits(seed, 1)
    [token] = sample(logits, [sampling], [number])
    if sampling.temperature == 0:
        assert token == logits.argmax()
    else:
        assert filter_probs(logits, [sampling])[0, token] > 0


@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.3, 1.0, 10.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 50, 1000]),
    top_p=st.sampled_from([0.01, 0.3, 0.9, 1.0]),
)
def test_filters_keep_what_transformers_keeps(seed: int, temperature: float, top_k: int, top_p: float) -> None:
    logits = _make_logits(seed, 3)
    scores = transformers.TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        scores = transformers.TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = transformers.TopPLogitsWarper(top_p)(None, scores)
    kept = filter_probs(logits, [Sampling(temperature=temperature, top_k=top_k, top_p=top_p)] * 3)
    torch.testing.assert_close(kept / kept.sum(-1, keepdim=True), scores.softmax(-1))


def test_of_equal_logits_the_lowest_id_wins() -> None:
    logits = torch.zeros(2, 1000)
    samplings = [Sampling(), Sampling(temperature=1.0, top_k=1)]
    assert sample(logits, samplings, [0.99, 0.99]) == [0, 0]


def test_draws_follow_the_probabilities() -> None:
    probs = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.05])
    num = 20_000
    tokens = sample(
        probs.log().expand(num, -1),
        [Sampling(temperature=1.0)] * num,
        [uniform(7, position) for position in range(num)],
    )
    shares = torch.bincount(torch.tensor(tokens), minlength=5) / num
    assert shares[1] == 0
    torch.testing.assert_close(shares, probs, atol=0.015, rtol=0)


@pytest.mark.parametrize("number", [0.0, 1.0 - 2.0**-53])
def test_the_ends_of_the_unit_interval_draw_possible_tokens(number: float) -> None:
    logits = torch.full((1, 1000), float("-inf"))
    logits[0, 10], logits[0, 20] = 1.0, 2.0
    assert sample(logits, [Sampling(temperature=1.0)], [number]) == [10 if number == 0.0 else 20]


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), temperature=st.sampled_from([1e-300, 1e-9, 1e-6]))
def test_a_tiny_temperature_is_greedy(seed: int, temperature: float) -> None:
    logits = _make_logits(seed, 2) * 100
    assert sample(logits, [Sampling(temperature=temperature)] * 2, [0.999, 0.001]) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_any_floating_dtype_is_taken(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.0, 100.0, 0.0]], dtype=dtype)
    assert sample(logits, [Sampling(temperature=0.5, top_p=0.9, top_k=2)], [0.5]) == [1]
