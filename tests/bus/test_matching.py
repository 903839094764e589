"""Subjects and wildcards, against a naive model."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_mq.bus.matching import check_filter, check_subject, has_wildcard, matches
from parrot_mq.errors import InvalidName

TOKENS = st.sampled_from(["a", "b", "ab", "A", "-", "$JS"])
SUBJECTS = st.lists(TOKENS, min_size=1, max_size=5).map(".".join)
FILTERS = st.builds(
    lambda tokens, tail: ".".join(tokens + tail) or ">",
    st.lists(st.one_of(TOKENS, st.just("*")), max_size=4),
    st.sampled_from([[], [">"]]),
)


@given(FILTERS, SUBJECTS)
def test_a_filter_matches_what_the_naive_pattern_matches(pattern: str, subject: str) -> None:
    naive = re.escape(pattern).replace(r"\*", r"[^.]+").replace(">", ".+")
    assert matches(pattern, subject) == (re.fullmatch(naive, subject) is not None)


@given(FILTERS)
def test_built_filters_are_valid(pattern: str) -> None:
    assert check_filter(pattern) == pattern


@given(SUBJECTS)
def test_built_subjects_are_valid_and_match_themselves(subject: str) -> None:
    assert check_subject(subject) == check_filter(subject) == subject
    assert matches(subject, subject)
    assert not has_wildcard(subject)


@given(st.text(alphabet="ab.*> \n", max_size=6))
def test_a_checked_text_is_made_of_whole_tokens(text: str) -> None:
    tokens = text.split(".")
    is_subject = all(re.fullmatch(r"[ab]+", token) for token in tokens)
    is_filter = all(re.fullmatch(r"[ab]+|\*", token) for token in tokens[:-1]) and bool(
        re.fullmatch(r"[ab]+|\*|>", tokens[-1])
    )
    for check, is_valid in ((check_subject, is_subject), (check_filter, is_filter)):
        if is_valid:
            assert check(text) == text
        else:
            with pytest.raises(InvalidName):
                check(text)
