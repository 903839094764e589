"""Logits become tokens by the same rule in every row."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parrot_workers.engine.sampled import Fault
from parrot_workers.engine.sampler import Sampler

from parrot_mq.errors import EngineFailure, UnknownToken
from parrot_mq.types import Sampling
from tests.workers.sampling import make_logits, open_rows, sample_once

_samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-9, 0.3, 1.0, 10.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 1000]),
    top_p=st.sampled_from([1e-6, 0.3, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.5]),
    presence_penalty=st.sampled_from([0.0, 2.0, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    logit_bias=st.dictionaries(st.integers(0, 49), st.floats(-100, 100), max_size=3),
    stop_token_ids=st.sampled_from([(), (3, 4)]),
    min_tokens=st.sampled_from([0, 2]),
    logprobs=st.sampled_from([0, 3]),
)
_NUM_STEPS = 4


@given(seed=st.integers(0, 1000), samplings=st.lists(_samplings, min_size=1, max_size=6), data=st.data())
def test_a_text_does_not_depend_on_its_batch(seed: int, samplings: list[Sampling], data: st.DataObject) -> None:
    """Batches change from step to step, and a row may be closed and opened again with what it has (preemption)."""
    logits = [make_logits(seed + step, len(samplings)) for step in range(_NUM_STEPS)]
    together: list[list[int]] = [[] for _ in samplings]
    sampler = Sampler(vocab_size=50, eos_token_ids=[0])
    rows = open_rows(sampler, samplings, range(len(samplings)))
    for step in range(_NUM_STEPS):
        order = data.draw(st.permutations(range(len(samplings))))
        if data.draw(st.booleans()):
            sampler.close(rows[order[0]])
            rows[order[0]] = sampler.open(samplings[order[0]], seed=order[0], output_ids=together[order[0]])
        batch = sampler.rows([rows[number] for number in order])
        sampled = sampler.sample(logits[step][order], batch, np.full(len(order), step))
        for number, token_id in zip(order, sampled.token_ids.tolist(), strict=True):
            together[number].append(token_id)
    for number, sampling in enumerate(samplings):
        alone = Sampler(vocab_size=50, eos_token_ids=[0])
        row = alone.rows([alone.open(sampling, seed=number)])
        tokens = [
            alone.sample(logits[step][[number]], row, np.array([step])).token_ids.item() for step in range(_NUM_STEPS)
        ]
        assert together[number] == tokens


def test_the_same_rows_keep_their_tensors() -> None:
    sampler = Sampler(vocab_size=50, eos_token_ids=[0])
    a, b = open_rows(sampler, [Sampling(), Sampling(temperature=1.0)], [1, 2])
    first = sampler.rows([a, b])
    assert sampler.rows([a, b]) is first
    assert sampler.rows([b, a]) is not first
    assert sampler.rows([b]) is not first


def test_of_equal_logits_the_lowest_id_wins() -> None:
    samplings = [Sampling(), Sampling(temperature=1.0, top_k=1)]
    assert sample_once(torch.zeros(2, 1000), samplings, seeds=[1, 2]).token_ids.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_any_floating_dtype_is_taken_and_left_as_it_is(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.0, 60.0, 0.0]] * 3, dtype=dtype)
    samplings = [Sampling(), Sampling(temperature=0.5, top_p=0.9, top_k=2), Sampling(logit_bias={2: 100.0})]
    sampled = sample_once(logits, samplings)
    assert sampled.token_ids.tolist() == [1, 1, 2]
    assert logits.tolist() == [[0.0, 60.0, 0.0]] * 3


def test_the_host_reads_nothing_of_the_device() -> None:
    """On a GPU that would wait for the model. Tensors of the device `meta` have no values, so reading one raises."""
    samplings = [
        Sampling(),
        Sampling(temperature=1.0),
        Sampling(temperature=1.0, top_k=5),
        Sampling(temperature=1.0, top_p=0.9, min_p=0.1),
        Sampling(repetition_penalty=1.1, frequency_penalty=0.5, logit_bias={3: 1.0}),
        Sampling(min_tokens=4, logprobs=3),
    ]
    sampler = Sampler(vocab_size=50, eos_token_ids=[0], device="meta")
    rows = [sampler.open(each, prompt_ids=[1, 2]) for each in samplings]
    for chosen in (rows, rows[:1], rows[1:2], rows[:2], rows[2:3]):
        logits = torch.empty(len(chosen), 50, device="meta")
        sampled = sampler.sample(logits, sampler.rows(chosen), [2] * len(chosen))
        assert (sampled.token_ids.shape, sampled.token_ids.dtype) == ((len(chosen),), torch.int64)
        assert sampled.is_valid.shape == (len(chosen),)


# -- minimum length --------------------------------------------------------------------------------------------------


def test_before_min_tokens_no_ending_token_is_chosen() -> None:
    logits = torch.tensor([[1.0, 2.0, 9.0, 8.0, 3.0]]).repeat(4, 1)
    samplings = [
        Sampling(min_tokens=3, stop_token_ids=(3,)),
        Sampling(min_tokens=3),
        Sampling(min_tokens=3, ignore_eos=True),  # the end of text does not end this one: nothing to suppress
        Sampling(min_tokens=3, stop_token_ids=(3,), temperature=1.0),
    ]
    early = sample_once(logits, samplings, positions=[2, 2, 2, 2], eos_token_ids=[2]).token_ids.tolist()
    assert early[:3] == [4, 3, 2]
    assert early[3] not in (2, 3)
    late = sample_once(logits[:3], samplings[:3], positions=[3, 3, 3], eos_token_ids=[2]).token_ids.tolist()
    assert late == [2, 2, 2]


# -- bias ------------------------------------------------------------------------------------------------------------


def test_a_bias_is_added_to_the_logits_it_names() -> None:
    logits = torch.zeros(3, 6)
    samplings = [Sampling(logit_bias={5: 1.0}), Sampling(), Sampling(logit_bias={0: -1.0, 1: -1.0})]
    assert sample_once(logits, samplings).token_ids.tolist() == [5, 0, 2]


@pytest.mark.parametrize(
    ("sampling", "field"),
    [(Sampling(logit_bias={3: 1.0, 50: 1.0}), "logit_bias"), (Sampling(stop_token_ids=(50,)), "stop_token_ids")],
)
def test_a_token_beyond_the_vocabulary_is_refused(sampling: Sampling, field: str) -> None:
    with pytest.raises(UnknownToken, match=rf"^`{field}` names token 50; the model has the tokens 0 to 49$"):
        Sampler(vocab_size=50, eos_token_ids=[]).open(sampling)


# -- log probabilities -----------------------------------------------------------------------------------------------


def test_log_probabilities_are_those_of_the_raw_logits() -> None:
    logits = make_logits(1, 3)
    samplings = [
        Sampling(logprobs=2, temperature=5.0, top_k=3, logit_bias={7: 100.0}),
        Sampling(),
        Sampling(logprobs=5),
    ]
    tokens = sample_once(logits, samplings).read()
    assert tokens[0].token_id == 7
    assert tokens[1].logprob is None
    for row, num in ((0, 2), (2, 5)):
        expected = logits[row].log_softmax(-1)
        told = tokens[row].logprob
        assert told is not None
        assert told.token_id == tokens[row].token_id
        assert told.logprob == pytest.approx(expected[told.token_id].item())
        best = expected.topk(num)
        assert [token_id for token_id, _ in told.alternatives] == best.indices.tolist()
        assert [value for _, value in told.alternatives] == pytest.approx(best.values.tolist())


def test_a_log_probability_is_a_number_that_json_can_say() -> None:
    logits = torch.tensor([[0.0, -math.inf, -math.inf]])
    [token] = sample_once(logits, [Sampling(logprobs=20)]).read()
    assert token.logprob is not None
    assert token.logprob.alternatives == ((0, 0.0), (1, -9999.0), (2, -9999.0))


# -- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=1.0, top_p=0.9), Sampling(logit_bias={1: 1.0}, frequency_penalty=1.0)]
)
def test_logits_that_are_not_numbers_fail_their_row_only(sampling: Sampling, value: float) -> None:
    logits = make_logits(3, 3)
    whole = sample_once(logits, [sampling] * 3).token_ids.tolist()
    logits[1, 20] = value
    sampled = sample_once(logits, [sampling] * 3)
    assert sampled.faults.tolist() == [Fault.NONE, Fault.NOT_NUMBERS, Fault.NONE]
    assert sampled.is_valid.tolist() == [True, False, True]
    tokens = sampled.read()
    assert [tokens[0].token_id, tokens[2].token_id] == [whole[0], whole[2]]
    assert isinstance(tokens[1].error, EngineFailure)
    assert "not numbers" in tokens[1].error.message
    assert tokens[0].error is tokens[2].error is None
    assert 0 <= tokens[1].token_id < 50


def test_a_row_of_nothing_but_minus_infinity_fails() -> None:
    assert sample_once(torch.full((1, 9), -math.inf), [Sampling()]).faults.tolist() == [Fault.NOT_NUMBERS]
