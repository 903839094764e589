"""Penalties are those of transformers and of the OpenAI API, on the tokens that a text really has."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
import transformers as untyped_transformers
from hypothesis import given
from hypothesis import strategies as st
from parrot_workers.engine.penalties import TokenCounts
from parrot_workers.engine.sampler import Sampler

from parrot_mq.types import Sampling
from tests.workers.sampling import make_logits

transformers: Any = untyped_transformers

_VOCAB_SIZE = 20
_token_ids = st.lists(st.integers(0, _VOCAB_SIZE - 1), max_size=12)
_logits = make_logits(5, 1, _VOCAB_SIZE)


def _adjust(sampling: Sampling, prompt_ids: list[int], output_ids: list[int]) -> torch.Tensor:
    """What the sampler draws from, read off the probabilities: log softmax of the changed logits."""
    sampler = Sampler(vocab_size=_VOCAB_SIZE, eos_token_ids=[0])
    row = sampler.open(sampling, prompt_ids=prompt_ids, output_ids=output_ids)
    adjusted = sampler.adjust(_logits, sampler.rows([row]), np.array([len(output_ids)]), {})
    return _logits if adjusted is None else adjusted


@given(prompt_ids=_token_ids, output_ids=_token_ids, penalty=st.sampled_from([0.5, 1.0, 1.3, 10.0]))
def test_repetition_is_penalised_as_in_transformers(
    prompt_ids: list[int], output_ids: list[int], penalty: float
) -> None:
    found = _adjust(Sampling(repetition_penalty=penalty), prompt_ids, output_ids)
    processor = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    ids = torch.tensor([prompt_ids + output_ids], dtype=torch.int64)
    torch.testing.assert_close(found, processor(ids, _logits.clone()))


@given(
    prompt_ids=_token_ids,
    output_ids=_token_ids,
    presence=st.sampled_from([-2.0, 0.0, 0.7]),
    frequency=st.sampled_from([-2.0, 0.0, 0.3]),
)
def test_presence_and_frequency_count_the_output_only(
    prompt_ids: list[int], output_ids: list[int], presence: float, frequency: float
) -> None:
    """`mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence`, as the OpenAI documentation says."""
    found = _adjust(Sampling(presence_penalty=presence, frequency_penalty=frequency), prompt_ids, output_ids)
    expected = _logits.clone()
    for token_id, count in Counter(output_ids).items():
        expected[0, token_id] -= count * frequency + presence
    torch.testing.assert_close(found, expected)


@given(output_ids=_token_ids, min_tokens=st.integers(0, 12))
def test_ends_are_suppressed_as_in_transformers(output_ids: list[int], min_tokens: int) -> None:
    found = _adjust(Sampling(min_tokens=min_tokens, stop_token_ids=(3, 4)), [1, 2], output_ids)
    processor = transformers.MinNewTokensLengthLogitsProcessor(2, min_tokens, eos_token_id=torch.tensor([0, 3, 4]))
    ids = torch.tensor([[1, 2, *output_ids]])
    torch.testing.assert_close(found, processor(ids, _logits.clone()))


@given(bias=st.dictionaries(st.integers(0, _VOCAB_SIZE - 1), st.floats(-100, 100), min_size=1))
def test_a_bias_is_that_of_transformers(bias: dict[int, float]) -> None:
    found = _adjust(Sampling(logit_bias=bias), [], [])
    processor = transformers.SequenceBiasLogitsProcessor({(token_id,): value for token_id, value in bias.items()})
    ids = torch.tensor([[1]])
    torch.testing.assert_close(found, processor(ids, _logits.clone()))


def test_penalties_come_before_the_bias() -> None:
    """vLLM penalises logits that are biased already; here a bias means the same number whatever the text has."""
    sampling = Sampling(repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.25, logit_bias={7: 3.0})
    found = _adjust(sampling, [7], [7, 7])
    raw = _logits[0, 7]
    expected = (raw / 2 if raw > 0 else raw * 2) - 2 * 0.5 - 0.25 + 3.0
    torch.testing.assert_close(found[0, 7], expected)


def test_tokens_count_once_they_are_sampled() -> None:
    """Also before the host reads them: a text whose every token is penalised out takes each once."""
    sampler = Sampler(vocab_size=_VOCAB_SIZE, eos_token_ids=[])
    rows = sampler.rows([sampler.open(Sampling()), sampler.open(Sampling(presence_penalty=2.0))])
    logits = torch.linspace(1, 0, _VOCAB_SIZE).expand(2, -1)
    tokens = [sampler.sample(logits, rows, [step, step]).token_ids for step in range(_VOCAB_SIZE)]
    assert torch.stack(tokens).tolist() == [[0, step] for step in range(_VOCAB_SIZE)]


@given(data=st.data())
def test_counts_are_those_of_a_counter(data: st.DataObject) -> None:
    """Slots are given out, counted and given back in any order."""
    counts = TokenCounts(_VOCAB_SIZE, torch.device("cpu"))
    texts: dict[int, tuple[set[int], Counter[int]]] = {}
    for _ in range(data.draw(st.integers(1, 12))):
        action = data.draw(st.sampled_from(["add", "count", "remove"]))
        if action == "add":
            prompt_ids, output_ids = data.draw(_token_ids), data.draw(_token_ids)
            slot = counts.add(prompt_ids, output_ids)
            assert slot not in texts
            texts[slot] = set(prompt_ids), Counter(output_ids)
        elif action == "count" and texts:
            slots = data.draw(st.lists(st.sampled_from(sorted(texts)), unique=True, min_size=1))
            token_ids = data.draw(st.lists(st.integers(0, _VOCAB_SIZE - 1), min_size=len(slots), max_size=len(slots)))
            counts.count(torch.tensor(slots), torch.tensor(token_ids))
            for slot, token_id in zip(slots, token_ids, strict=True):
                texts[slot][1][token_id] += 1
        elif texts:
            slot = data.draw(st.sampled_from(sorted(texts)))
            counts.remove(slot)
            del texts[slot]
        assert counts.num_used == len(texts)
        for slot, (prompt, output) in texts.items():
            index = torch.tensor([slot])
            assert counts.in_prompt(index)[0].nonzero().flatten().tolist() == sorted(prompt)
            assert counts.in_output(index)[0].tolist() == [output[token_id] for token_id in range(_VOCAB_SIZE)]


def test_texts_without_penalties_are_not_counted() -> None:
    sampler = Sampler(vocab_size=_VOCAB_SIZE, eos_token_ids=[])
    assert sampler.open(Sampling(temperature=1.0, min_tokens=3, logit_bias={1: 1.0}), prompt_ids=[1]).slot is None
    first = sampler.open(Sampling(frequency_penalty=1.0))
    sampler.close(first)
    assert sampler.open(Sampling(presence_penalty=1.0)).slot == first.slot
