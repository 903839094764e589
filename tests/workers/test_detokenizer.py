"""Text comes out while tokens come in: in whole characters, with its spaces, and never a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parrot_workers.engine.detokenizer import Detokenizer, StopMatcher

from tests.workers.checkpoints import byte_tokenizer, sentencepiece_tokenizer

_BYTES, _PIECES = byte_tokenizer(), sentencepiece_tokenizer()
_TEXTS = st.text(st.sampled_from("the abAB é€🦜\n\u200d\ufffd"), max_size=30)


def _decode_with(tokenizer: Any) -> Callable[[list[int]], str]:
    def decode(token_ids: list[int]) -> str:
        text: str = tokenizer.decode(token_ids, skip_special_tokens=True)
        return text

    return decode


def _pieces_of(tokenizer: Any, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> list[str]:
    detokenizer = Detokenizer(_decode_with(tokenizer), prompt_ids)
    return [*(detokenizer.push(token_id) for token_id in token_ids), detokenizer.flush()]


@given(text=_TEXTS)
def test_bytes_give_back_their_text_in_whole_characters(text: str) -> None:
    pieces = _pieces_of(_BYTES, list(b"prompt"), list(text.encode()))
    assert "".join(pieces) == text
    assert "\ufffd" in text or all(len(piece) <= 1 for piece in pieces)


@given(data=st.binary(max_size=60))
def test_any_bytes_give_what_decoding_them_at_once_gives(data: bytes) -> None:
    """Also what is no UTF-8: each broken sequence becomes U+FFFD."""
    assert "".join(_pieces_of(_BYTES, list(b"prompt"), list(data))) == data.decode(errors="replace")


def test_half_a_character_at_the_end_becomes_the_replacement_character() -> None:
    assert _pieces_of(_BYTES, [], list("a🦜".encode()[:-1])) == ["a", "", "", "", "\ufffd"]


def test_endless_broken_bytes_are_not_held_for_ever() -> None:
    pieces = _pieces_of(_BYTES, [], [0xFF] * 100)
    assert "".join(pieces) == "\ufffd" * 100
    assert "".join(pieces[:50])


@given(prompt=_TEXTS, text=_TEXTS)
def test_words_keep_their_spaces(prompt: str, text: str) -> None:
    """The output goes on where the prompt ends: what was told is the difference of the two whole texts."""
    prompt_ids = _PIECES(prompt)["input_ids"]
    token_ids = _PIECES(prompt + text)["input_ids"]
    if token_ids[: len(prompt_ids)] != prompt_ids or not prompt_ids:
        return  # a merge across the boundary: another prompt
    assert "".join(_pieces_of(_PIECES, prompt_ids, token_ids[len(prompt_ids) :])) == text


def test_the_space_before_the_first_word_is_kept() -> None:
    prompt_ids = _PIECES("a")["input_ids"]
    token_ids = _PIECES("a the bb")["input_ids"][len(prompt_ids) :]
    assert _pieces_of(_PIECES, prompt_ids, token_ids)[0] == " the"


@given(prompt=st.lists(st.integers(0, 258), max_size=12), token_ids=st.lists(st.integers(0, 330), max_size=40))
def test_random_pieces_never_break_it(prompt: list[int], token_ids: list[int]) -> None:
    """Special tokens, half characters, bytes between words: whatever comes, no letter is lost."""
    token_ids = [token_id % len(_PIECES) for token_id in token_ids]
    words = [str(_PIECES.convert_ids_to_tokens(token_id)) for token_id in token_ids]
    letters = "".join(word for word in words if not word.startswith("<")).replace("▁", "")
    told = iter("".join(_pieces_of(_PIECES, prompt, token_ids)))
    assert all(letter in told for letter in letters)  # in this order: `in` reads on in an iterator


# -- stop strings ----------------------------------------------------------------------------------------------------

_SHORT = st.text(st.sampled_from("ab"), min_size=1, max_size=4)


def _cut_one_by_one(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The rule, character by character: the text ends before the stop string that is completed first."""
    for end in range(1, len(text) + 1):
        begins = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if begins:
            return text[: min(begins)], True
    return text, False


@given(pieces=st.lists(st.text(st.sampled_from("abc"), max_size=5), max_size=8), stops=st.lists(_SHORT, max_size=3))
def test_a_text_ends_before_the_stop_string_that_is_completed_first(pieces: list[str], stops: list[str]) -> None:
    """However it is cut into pieces."""
    matcher, told = StopMatcher(stops), ""
    expected, is_matched = _cut_one_by_one("".join(pieces), stops)
    for piece in pieces:
        told += matcher.push(piece)
        assert expected.startswith(told)
    assert told + matcher.flush() == expected
    assert matcher.is_matched == is_matched


@pytest.mark.parametrize(
    ("stop", "pieces", "told"),
    [
        ("###", ["a", "#", "#", "b"], ["a", "", "", "##b"]),
        ("###", ["a#", "##b"], ["a", ""]),
        ("\n\n", ["x\n", "y\n\n"], ["x", "\ny"]),
        ("aab", ["aaab"], ["a"]),
    ],
)
def test_only_what_may_become_a_stop_string_is_held(stop: str, pieces: list[str], told: list[str]) -> None:
    matcher = StopMatcher([stop])
    assert [matcher.push(piece) for piece in pieces] == told
