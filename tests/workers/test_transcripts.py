"""Transcripts and PromptReader: a text that the engine wrote keeps the tokens it was written in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from parrot_workers.engine import GenerationRequest
from parrot_workers.engine.prompt_reader import PromptReader
from parrot_workers.engine.transcripts import KnownPrefix, Transcripts
from parrot_workers.models import LoadedModel

from parrot_mq.errors import ContextLengthExceeded, EngineFailure
from parrot_mq.types import Sampling
from tests.workers.checkpoints import sentencepiece_tokenizer


@pytest.fixture
def model(loaded: Callable[[str], LoadedModel]) -> LoadedModel:
    """A model whose tokenizer joins letters: `the` may be one token or three."""
    return replace(loaded("llama"), tokenizer=sentencepiece_tokenizer(), vocab_size=1000)


def _request(prompt: str | tuple[int, ...], *ends: int, **fields: object) -> GenerationRequest:
    hashes = tuple(f"h{end}" for end in ends)
    request = GenerationRequest(
        key="a", prompt=prompt, sampling=Sampling(max_tokens=4), prefix_hashes=hashes, prefix_ends=ends
    )
    return replace(request, **fields)  # type: ignore[arg-type]


# -- transcripts -----------------------------------------------------------------------------------------------------


def test_the_longest_known_beginning_is_found() -> None:
    transcripts = Transcripts()
    transcripts.add("t", "ab", [1, 2])
    transcripts.add("t", "abcd", [1, 2, 3])
    assert transcripts.longest("t", "abcdef", (2, 4, 6)) == KnownPrefix(4, (1, 2, 3))
    assert transcripts.longest("t", "abcdef", (2, 6)) == KnownPrefix(2, (1, 2))
    assert transcripts.longest("t", "abxdef", (4,)) is None


def test_tenants_do_not_see_each_others_texts() -> None:
    transcripts = Transcripts()
    transcripts.add("t", "ab", [1, 2])
    assert transcripts.longest("u", "ab", (2,)) is None


def test_the_oldest_is_forgotten_first() -> None:
    transcripts = Transcripts(max_entries=2)
    for text in ("a", "b", "a", "c"):
        transcripts.add("", text, [1])
    assert transcripts.longest("", "b", (1,)) is None
    assert transcripts.longest("", "a", (1,)) is not None


# -- prompts ---------------------------------------------------------------------------------------------------------


def test_a_prompt_is_read_as_transformers_reads_it(model: LoadedModel) -> None:
    reader = PromptReader(model, max_context_tokens=100)
    expected = model.tokenizer("the end of the tale")["input_ids"]
    assert reader.read(_request("the end of the tale")).token_ids == expected
    assert reader.read(_request("the end of the tale", 3, 7)).token_ids == expected


def test_prefixes_count_the_tokens_that_are_wholly_inside(model: LoadedModel) -> None:
    reader = PromptReader(model, max_context_tokens=100)
    token_ids, prefixes = reader.read(_request("the end", 2, 3, 7))
    assert token_ids == model.encode("the end")  # `the` is one token: nothing of it is inside its first two letters
    assert prefixes == [("h2", 0), ("h3", 1), ("h7", len(token_ids))]


def test_a_continuation_keeps_the_tokens_it_was_written_in(model: LoadedModel) -> None:
    reader = PromptReader(model, max_context_tokens=100)
    letters = [model.tokenizer.convert_tokens_to_ids(piece) for piece in ("▁t", "h", "e")]
    first = _request("end")
    written = [*model.encode("end"), *letters]
    reader.remember(first, " the", written)
    token_ids, prefixes = reader.read(_request("end the tale", 3, 7, 12))
    rest = model.encode("end the tale")[len(model.encode("end the")) :]
    assert token_ids == [*written, *rest]
    assert prefixes == [("h3", len(model.encode("end"))), ("h7", len(written)), ("h12", len(token_ids))]


def test_a_boundary_inside_a_token_keeps_nothing(model: LoadedModel) -> None:
    """`t` was written, and the prompt goes on with `he`: read together that is another token."""
    reader = PromptReader(model, max_context_tokens=100)
    reader.remember(_request("end"), " t", [*model.encode("end"), model.tokenizer.convert_tokens_to_ids("▁t")])
    assert reader.read(_request("end the", 5, 7)).token_ids == model.encode("end the")


def test_token_ids_are_taken_as_they_are(model: LoadedModel) -> None:
    reader = PromptReader(model, max_context_tokens=100)
    assert reader.read(_request((5, 6, 7))).token_ids == [5, 6, 7]


@pytest.mark.parametrize(("prompt", "word"), [((), "no tokens"), ((-1,), "-1"), ((5, 1000), "1000")])
def test_wrong_token_ids_are_refused(model: LoadedModel, prompt: tuple[int, ...], word: str) -> None:
    with pytest.raises(EngineFailure, match=word):
        PromptReader(model, max_context_tokens=100).read(_request(prompt))


def test_the_longest_context_is_refused_early(model: LoadedModel) -> None:
    reader = PromptReader(model, max_context_tokens=10)
    assert len(reader.read(_request((1,) * 6)).token_ids) == 6
    with pytest.raises(ContextLengthExceeded):
        reader.read(_request((1,) * 7))
