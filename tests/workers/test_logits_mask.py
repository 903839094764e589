"""A constraint decides which tokens may come next, and its failure is its row's alone."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parrot_workers.engine.logits_mask import LogitsMask, MaskWords, num_mask_words
from parrot_workers.engine.sampler import Sampler

from parrot_mq.errors import EngineFailure, NoTokenAllowed
from parrot_mq.types import Sampling
from tests.workers.checkpoints import byte_tokenizer
from tests.workers.masks import BrokenMask, NumberMask, allow
from tests.workers.sampling import make_logits

_EOS = 256
_VOCAB_SIZE = 259


class _Fixed:
    """Allows the same tokens for ever."""

    is_finished = False

    def __init__(self, token_ids: set[int]) -> None:
        self._token_ids = token_ids

    def fill(self, words: MaskWords) -> None:
        allow(words, self._token_ids)

    def accept(self, token_id: int) -> None:
        pass


def _generate(mask: LogitsMask, sampling: Sampling, seed: int, num_tokens: int = 12) -> list[int]:
    """Sample from random logits beside a row that is free; stop at the end of the text."""
    sampler = Sampler(vocab_size=_VOCAB_SIZE, eos_token_ids=[_EOS])
    rows = sampler.rows([sampler.open(Sampling()), sampler.open(sampling, seed=seed, mask=mask)])
    tokens: list[int] = []
    while not mask.is_finished and len(tokens) < num_tokens:
        logits = make_logits(seed + len(tokens), 2, _VOCAB_SIZE)
        free, token = sampler.sample(logits, rows, np.full(2, len(tokens))).read()
        assert free.token_id == logits[0].argmax()
        assert token.error is None
        if token.token_id == _EOS:
            break
        mask.accept(token.token_id)
        tokens.append(token.token_id)
    return tokens


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=2.0, top_p=0.9, frequency_penalty=1.0)])
@pytest.mark.parametrize("seed", range(10))
def test_what_is_generated_matches_the_constraint(sampling: Sampling, seed: int) -> None:
    for mask in (NumberMask(eos_token_id=_EOS), NumberMask(eos_token_id=None)):
        text = bytes(_generate(mask, sampling, seed)).decode()
        assert re.fullmatch("-?[0-9]{1,4}", text)
        assert not mask.is_finished or len(text.lstrip("-")) == 4


@given(
    token_ids=st.sets(st.integers(0, 99), min_size=1),
    seed=st.integers(0, 1000),
    vocab_size=st.sampled_from([100, 128, 129]),
)
def test_the_likeliest_allowed_token_is_taken(token_ids: set[int], seed: int, vocab_size: int) -> None:
    """Whether or not the vocabulary fills its last word."""
    logits = make_logits(seed, 1, vocab_size)
    sampler = Sampler(vocab_size=vocab_size, eos_token_ids=[])
    row = sampler.open(Sampling(), mask=_Fixed(token_ids))
    [token] = sampler.sample(logits, sampler.rows([row]), [0]).read()
    assert token.token_id == max(token_ids, key=lambda token_id: logits[0, token_id].item())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constraint_that_allows_nothing_fails_its_row_only(temperature: float) -> None:
    sampling = Sampling(temperature=temperature)
    sampler = Sampler(vocab_size=50, eos_token_ids=[])
    masks = [None, _Fixed(set()), BrokenMask(), _Fixed({7})]
    rows = sampler.rows([sampler.open(sampling, mask=mask) for mask in masks])
    free, dead, broken, fixed = sampler.sample(make_logits(1, 4), rows, [0] * 4).read()
    assert free.error is fixed.error is None
    assert fixed.token_id == 7
    assert isinstance(dead.error, NoTokenAllowed)
    assert isinstance(broken.error, EngineFailure)
    assert broken.error.message == "the engine failed: its constraint raised RuntimeError: no grammar"


def test_an_end_that_may_not_come_yet_leaves_a_finished_constraint_nothing() -> None:
    sampler = Sampler(vocab_size=50, eos_token_ids=[3])
    row = sampler.open(Sampling(min_tokens=2), mask=_Fixed({3}))
    [early] = sampler.sample(make_logits(1, 1), sampler.rows([row]), [1]).read()
    [late] = sampler.sample(make_logits(1, 1), sampler.rows([row]), [2]).read()
    assert isinstance(early.error, NoTokenAllowed)
    assert late.token_id == 3


def test_tokens_that_a_constraint_forbids_get_no_probability_from_a_bias() -> None:
    sampler = Sampler(vocab_size=50, eos_token_ids=[])
    row = sampler.open(Sampling(logit_bias={9: 100.0}), mask=_Fixed({4, 5}))
    [token] = sampler.sample(make_logits(1, 1), sampler.rows([row]), [0]).read()
    assert token.token_id in (4, 5)


# -- a grammar library -----------------------------------------------------------------------------------------------


class _GuidanceMask:
    """llguidance behind the protocol."""

    def __init__(self, tokenizer: Any, schema: dict[str, object]) -> None:
        llguidance: Any = pytest.importorskip("llguidance")
        hf: Any = pytest.importorskip("llguidance.hf")
        self._numpy: Any = pytest.importorskip("llguidance.numpy")
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
        self._matcher = llguidance.LLMatcher(hf.from_tokenizer(tokenizer, n_vocab=_VOCAB_SIZE), grammar)

    @property
    def is_finished(self) -> bool:
        return bool(self._matcher.is_stopped())

    def fill(self, words: MaskWords) -> None:
        self._numpy.fill_next_token_bitmask(self._matcher, words[None], 0)

    def accept(self, token_id: int) -> None:
        assert self._matcher.consume_token(token_id)


def test_a_json_schema_is_kept_by_llguidance() -> None:
    """The layout of the words is the one that grammar libraries write. Skipped where llguidance is not installed."""
    schema: dict[str, object] = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}},
        "required": ["n", "ok"],
        "additionalProperties": False,
    }
    mask = _GuidanceMask(byte_tokenizer(), schema)
    # Spaces may go on for ever: make them unlikely.
    sampling = Sampling(temperature=1.0, logit_bias=dict.fromkeys(b" \n\t\r", -100.0))
    value = json.loads(bytes(_generate(mask, sampling, 5, num_tokens=200)))
    assert 0 <= value["n"] <= 99
    assert isinstance(value["ok"], bool)


def test_a_mask_has_a_word_for_every_32_tokens() -> None:
    assert [num_mask_words(size) for size in (1, 32, 33, 128_256)] == [1, 1, 2, 4008]


def test_the_lowest_bit_is_the_first_token() -> None:
    words = np.zeros(2, dtype=np.int32)
    allow(words, [0, 31, 32])
    assert words.tolist() == [1 - 2**31, 1]
    sampler = Sampler(vocab_size=64, eos_token_ids=[])
    row = sampler.open(Sampling(), mask=_Fixed({0, 31, 32}))
    logits = torch.zeros(1, 64)
    for token_id in (31, 32, 33):
        logits[0, token_id] = token_id
    [token] = sampler.sample(logits, sampler.rows([row]), [0]).read()
    assert token.token_id == 32
