"""Deltas put together by their offsets: whatever is lost, repeated or reordered, never a gap and never a repeat."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_mq.client.merging import StreamReader
from parrot_mq.errors import GenerationAborted
from parrot_mq.messages import TokenDelta
from parrot_mq.types import TokenLogprob
from tests.wire.strategies import unhurried

ALPHABET = "ab \N{PARROT}"


def _delta(text: str, offset: int, attempt: int = 1) -> TokenDelta:
    return TokenDelta(attempt=attempt, offset=offset, text=text)


class _Case(NamedTuple):
    """A text, and what of its deltas arrives."""

    text: str
    heard: list[TokenDelta]


@st.composite
def _cuts(draw: st.DrawFn, text: str, attempt: int) -> list[TokenDelta]:
    """One attempt's deltas: from where its tokens begin, in pieces, not always to the end."""
    begin = draw(st.integers(0, len(text)))
    cuts = sorted(draw(st.sets(st.integers(begin, len(text)), max_size=8)) | {begin})
    return [_delta(text[left:right], left, attempt) for left, right in pairwise(cuts)]


@st.composite
def _replays(draw: st.DrawFn, text: str, attempt: int) -> list[TokenDelta]:
    """Answers to requests: from anywhere, up to what was generated then."""
    ends = st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))
    return [_delta(text[min(pair) : max(pair)], min(pair), attempt) for pair in draw(st.lists(ends, max_size=3))]


@st.composite
def _cases(draw: st.DrawFn) -> _Case:
    text = draw(st.text(ALPHABET, max_size=40))
    published: list[TokenDelta] = []
    for attempt in range(1, draw(st.integers(1, 3)) + 1):
        published += draw(_cuts(text, attempt)) + draw(_replays(text, attempt))
    if not published:
        return _Case(text, [])
    return _Case(text, draw(st.lists(st.sampled_from(published), max_size=2 * len(published))))


@unhurried
@given(case=_cases(), max_held=st.integers(0, 50))
def test_what_was_read_is_always_a_beginning_and_in_the_end_the_value(case: _Case, max_held: int) -> None:
    """Any loss, repetition and order, of deltas and of replays, of attempts that write the same."""
    reader, read = StreamReader("v", max_held=max_held), ""
    for delta in case.heard:
        pieces = reader.feed(delta)
        assert all(pieces), "no empty piece"
        read += "".join(pieces)
        assert case.text.startswith(read)
        assert reader.num_read == len(read)
    newest = max((delta.attempt for delta in case.heard), default=0)
    ends = [delta.offset + len(delta.text) for delta in case.heard if delta.attempt == newest]
    assert reader.has_gap == (max(ends, default=0) > len(read))
    assert read + (reader.finish(case.text) or "") == case.text


@unhurried
@given(case=_cases(), max_held=st.integers(0, 50))
def test_an_answered_request_closes_the_gap(case: _Case, max_held: int) -> None:
    reader = StreamReader("v", max_held=max_held)
    read = "".join(piece for delta in case.heard for piece in reader.feed(delta))
    newest = max((delta.attempt for delta in case.heard), default=1)
    read += "".join(reader.feed(_delta(case.text[len(read) :], len(read), newest)))
    assert read == case.text
    assert not reader.has_gap


@unhurried
@given(case=_cases())
def test_what_comes_in_order_leaves_no_gap(case: _Case) -> None:
    reader = StreamReader("v")
    for index, character in enumerate(case.text):
        assert reader.feed(_delta(character, index)) == [character]
        assert not reader.has_gap


@unhurried
@given(st.data(), st.text(ALPHABET, max_size=12), st.text(ALPHABET, max_size=12))
def test_of_two_texts_none_is_ever_taken_for_the_other(data: st.DataObject, one: str, other: str) -> None:
    """Whichever of them becomes the value: what was read goes on with it, or ends with the error."""
    deltas = data.draw(_cuts(one, 1)) + data.draw(_cuts(other, 2)) + data.draw(_replays(other, 2))
    heard = data.draw(st.lists(st.sampled_from(deltas), max_size=12)) if deltas else []
    value = data.draw(st.sampled_from([one, other]))
    reader = StreamReader("v")
    read = "".join(piece for delta in heard for piece in reader.feed(delta))
    try:
        rest = reader.finish(value) or ""
    except GenerationAborted:
        assert not value.startswith(read)
    else:
        assert read + rest == value


def test_after_a_text_that_disagrees_nothing_more_is_read() -> None:
    reader = StreamReader("v")
    assert reader.feed(_delta("abc", 0)) == ["abc"]
    assert reader.feed(_delta("xyz123", 0, attempt=2)) == []
    assert reader.feed(_delta("456", 6, attempt=2)) == []
    assert not reader.has_gap, "there is nothing to ask for"
    with pytest.raises(GenerationAborted, match="await"):
        reader.finish("xyz123456")


def test_the_value_may_still_be_that_of_the_attempt_that_was_read() -> None:
    reader = StreamReader("v")
    reader.feed(_delta("abc", 0))
    reader.feed(_delta("xyz", 0, attempt=2))
    assert reader.finish("abcdef") == "def"


def test_what_is_held_of_an_older_attempt_is_not_used() -> None:
    """The newer one may write something else there; it writes or replays all of it."""
    reader = StreamReader("v")
    reader.feed(_delta("far", 6))
    assert reader.has_gap
    assert reader.feed(_delta("abc", 0, attempt=2)) == ["abc"]
    assert reader.feed(_delta("def", 3, attempt=2)) == ["def"]
    assert reader.num_read == 6
    assert reader.feed(_delta("old", 6, attempt=1)) == []


def test_what_is_held_comes_with_its_log_probabilities() -> None:
    told = TokenLogprob(7, -0.5)
    reader = StreamReader("v")
    assert reader.feed(TokenDelta(attempt=1, offset=2, text="cd", logprobs=[told])) == []
    first, second = reader.feed(_delta("ab", 0))
    assert (first, first.logprobs, second, second.logprobs) == ("ab", (), "cd", (told,))


def test_what_there_is_no_room_for_is_a_gap_again() -> None:
    reader = StreamReader("v", max_held=3)
    reader.feed(_delta("bcd", 1))
    reader.feed(_delta("ef", 4))
    assert reader.feed(_delta("a", 0)) == ["a", "bcd"]
    assert reader.has_gap, "it knows of the end that it did not keep"
    assert reader.feed(_delta("efg", 4)) == ["efg"]
    assert not reader.has_gap


def test_an_empty_delta_tells_how_far_the_text_is() -> None:
    begun, late = StreamReader("v"), StreamReader("v")
    assert begun.feed(_delta("", 0)) == late.feed(_delta("", 5)) == []
    assert (begun.has_begun, begun.has_gap) == (False, False)
    assert (late.has_begun, late.has_gap) == (True, True)
