"""The prefix hash chain."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from parrot_mq.program import Text, chain_digests, parse_template, prefix_hashes, segment_digest

texts = st.lists(st.text(max_size=4), max_size=6)


def test_the_chain_is_the_one_that_is_documented() -> None:
    first = hashlib.blake2b(hashlib.sha256(b"ab").digest(), digest_size=16)
    second = hashlib.blake2b(first.digest() + hashlib.sha256(b"c").digest(), digest_size=16)
    assert prefix_hashes(["ab", "c"]) == [first.hexdigest(), second.hexdigest()]


@given(texts, texts)
def test_hashes_are_equal_exactly_as_far_as_the_segments_are(one: list[str], other: list[str]) -> None:
    num_equal = next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(min(one, other, key=len))
    )
    pairs = list(zip(prefix_hashes(one), prefix_hashes(other), strict=False))
    assert [a == b for a, b in pairs] == [index < num_equal for index in range(len(pairs))]


@given(st.text(min_size=1), st.text(min_size=1))
def test_boundaries_count(one: str, other: str) -> None:
    assert prefix_hashes([one, other])[-1] != prefix_hashes([one + other])[-1]


def test_an_empty_value_counts() -> None:
    assert prefix_hashes(["a", "", "b"])[-1] != prefix_hashes(["a", "b"])[-1]


@given(texts)
def test_a_digest_stands_for_its_text(segments: list[str]) -> None:
    assert prefix_hashes(segments) == prefix_hashes([segment_digest(each) for each in segments])
    assert prefix_hashes(segments) == chain_digests(map(segment_digest, segments))


@given(texts, texts)
def test_a_chain_can_be_continued(one: list[str], other: list[str]) -> None:
    begin = chain_digests(map(segment_digest, one))
    rest = chain_digests(map(segment_digest, other), after=begin[-1] if begin else "")
    assert begin + rest == prefix_hashes(one + other)


def test_constant_text_is_one_segment_however_it_is_written() -> None:
    """So two prompts that read the same up to a placeholder have the same hash there."""
    (one,), (other,) = parse_template("a {{{{ b").parts, parse_template("a {{{{" + " b").parts
    assert isinstance(one, Text)
    assert isinstance(other, Text)
    assert prefix_hashes([one.text]) == prefix_hashes([other.text]) == prefix_hashes(["a {{ b"])
