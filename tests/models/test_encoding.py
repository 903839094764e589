"""A prompt becomes the very tokens that its tokenizer makes, and each says which characters it has a part in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parrot_workers.models import LoadedModel
from tokenizers.processors import TemplateProcessing

from parrot_mq.errors import EngineFailure
from tests.workers.checkpoints import byte_tokenizer, sentencepiece_tokenizer


@pytest.fixture(scope="module", params=["bytes", "sentencepiece", "bytes in a template"])
def model(request: pytest.FixtureRequest, loaded: Callable[[str], LoadedModel]) -> LoadedModel:
    tokenizer = sentencepiece_tokenizer() if request.param == "sentencepiece" else byte_tokenizer()
    if request.param == "bytes in a template":
        ends = [("<bos>", tokenizer.bos_token_id), ("<eos>", tokenizer.eos_token_id)]
        template = TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
        tokenizer.backend_tokenizer.post_processor = template
    return replace(loaded("llama"), tokenizer=tokenizer, vocab_size=len(tokenizer))


@given(text=st.text(max_size=20) | st.sampled_from(["né the cat<eos>🦜x", " ", "<bos>", "the the"]))
def test_tokens_are_those_of_the_tokenizer(model: LoadedModel, text: str) -> None:
    token_ids, offsets = model.encode_with_offsets(text)
    assert token_ids == model.encode(text) == (model.tokenizer(text)["input_ids"] or [model.tokenizer.bos_token_id])
    assert offsets is not None
    assert len(offsets) == len(token_ids)


@given(text=st.text(min_size=1, max_size=20))
def test_offsets_only_grow_and_cover_the_text(model: LoadedModel, text: str) -> None:
    _, offsets = model.encode_with_offsets(text)
    assert offsets == [(min(begins), end) for begins, end in _running_maxima(offsets or [])]
    assert offsets is not None
    assert offsets[-1][1] == len(text)


def _running_maxima(offsets: list[tuple[int, int]]) -> list[tuple[list[int], int]]:
    """Each begin with those after it, and the greatest end so far."""
    begins, ends = [begin for begin, _ in offsets], [end for _, end in offsets]
    return [(begins[index:], max(ends[: index + 1])) for index in range(len(offsets))]


def test_a_token_that_the_tokenizer_adds_stands_where_it_belongs(model: LoadedModel) -> None:
    token_ids, offsets = model.encode_with_offsets("ab<eos>c")
    assert offsets is not None
    eos = model.tokenizer.eos_token_id
    assert next(offset for token, offset in zip(token_ids, offsets, strict=True) if token == eos) == (2, 7)
    if token_ids[0] == model.tokenizer.bos_token_id:
        assert (offsets[0], offsets[-1]) == ((0, 0), (8, 8))


def test_a_slow_tokenizer_tells_no_offsets(loaded: Callable[[str], LoadedModel]) -> None:
    class Slow:
        is_fast = False

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": list(text.encode())}

    assert replace(loaded("llama"), tokenizer=Slow()).encode_with_offsets("né") == ([110, 195, 169], None)


def test_a_token_beyond_the_vocabulary_is_an_error(loaded: Callable[[str], LoadedModel]) -> None:
    model = replace(loaded("llama"), vocab_size=100)
    with pytest.raises(EngineFailure, match="token 110 is beyond the model's vocabulary of 100"):
        model.encode_with_offsets("n")


def test_an_empty_prompt_needs_a_token_that_begins_a_text(loaded: Callable[[str], LoadedModel]) -> None:
    model = loaded("llama")
    assert model.encode_with_offsets("") == ([256], [(0, 0)])
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(EngineFailure, match="the prompt is empty, and the model has no token to begin with"):
        replace(model, tokenizer=tokenizer).encode("")
