"""Requests that begin alike are computed together, in the best groups there are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

from hypothesis import given
from hypothesis import strategies as st
from parrot_workers.engine.grouping import PrefixGroup, common_prefix_length, group_by_prefix, shared_lengths

_TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=9)
_PROMPTS = st.lists(_TOKENS, min_size=1, max_size=7)


@given(a=st.lists(st.integers(0, 1)), b=st.lists(st.integers(0, 1)), common=st.lists(st.integers(0, 1), max_size=99))
def test_the_common_prefix_is_what_a_loop_finds(a: list[int], b: list[int], common: list[int]) -> None:
    expected = _common([common + a, common + b])
    assert common_prefix_length(common + a, common + b) == expected


@given(prompts=_PROMPTS, min_prefix=st.integers(1, 5))
def test_groups_hold_every_request_once_and_have_their_prefix_in_common(
    prompts: list[list[int]], min_prefix: int
) -> None:
    groups = group_by_prefix(prompts, min_prefix=min_prefix)
    assert sorted(index for group in groups for index in group.members) == list(range(len(prompts)))
    assert sum(group.prefix_length == 0 for group in groups) <= 1
    for prefix_length, members in groups:
        assert len({tuple(prompts[index][:prefix_length]) for index in members}) == 1 or not prefix_length
        assert all(prefix_length < len(prompts[index]) for index in members)
        assert not prefix_length or (prefix_length >= min_prefix and len(members) >= 2)


@given(prompts=_PROMPTS, min_prefix=st.integers(1, 3))
def test_no_other_cut_of_the_sorted_requests_saves_more(prompts: list[list[int]], min_prefix: int) -> None:
    saved = sum(length * (len(members) - 1) for length, members in group_by_prefix(prompts, min_prefix=min_prefix))
    assert saved == max(_saved(cut, min_prefix) for cut in _cuts(sorted(prompts)))


def _common(lists: list[list[int]]) -> int:
    """Leading items that all lists have in common, one by one."""
    return sum(1 for _ in takewhile(lambda items: len(set(items)) == 1, zip(*lists, strict=False)))


def _cuts(row: list[list[int]]) -> Iterator[list[list[list[int]]]]:
    """All ways to cut a row into groups of neighbours."""
    if not row:
        yield []
    for length in range(1, len(row) + 1):
        yield from ([row[:length], *rest] for rest in _cuts(row[length:]))


def _saved(groups: list[list[list[int]]], min_prefix: int) -> int:
    saved = 0
    for group in groups:
        length = min(_common(group), min(map(len, group)) - 1)
        saved += length * (len(group) - 1) if length >= min_prefix else 0
    return saved


def test_two_families_make_two_groups_and_a_stranger_stays_alone() -> None:
    a, b = list(range(100)), list(range(200, 300))
    prompts = [[*a, 1], [*b, 1], [*a, 2], [7], [*b, 2, 3], [*a, 3]]
    assert group_by_prefix(prompts) == [PrefixGroup(100, [0, 2, 5]), PrefixGroup(100, [1, 4]), PrefixGroup(0, [3])]


def test_the_last_token_of_a_prompt_is_never_shared() -> None:
    """Equal prompts: their logits are needed, so the last token is computed for each."""
    assert group_by_prefix([[1] * 20, [1] * 20]) == [PrefixGroup(19, [0, 1])]


def test_a_prefix_tree_would_hold_what_is_counted_as_shared() -> None:
    assert shared_lengths(["abcd", "abxy", "q", "abx"]) == [0, 3, 0, 2]
