"""Following tokens down the tree, against comparing with every page one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from parrot_workers.kv_cache.search import count_common, find_match

from tests.kv_cache.trees import make_tree, page_contents

tokens_strategy = st.lists(st.integers(0, 1), max_size=14).map(tuple)


@given(a=tokens_strategy, b=tokens_strategy, begin=st.integers(0, 14))
def test_common_tokens_are_counted_as_one_by_one(a: tuple[int, ...], b: tuple[int, ...], begin: int) -> None:
    begin = min(begin, len(b))
    expected = next((i for i, (x, y) in enumerate(zip(a, b[begin:], strict=False)) if x != y), None)
    assert count_common(a, b, begin) == (min(len(a), len(b) - begin) if expected is None else expected)


@given(stored=st.lists(tokens_strategy, max_size=8), tokens=tokens_strategy, page_size=st.integers(1, 4))
def test_a_match_is_the_longest_there_is(
    stored: list[tuple[int, ...]], tokens: tuple[int, ...], page_size: int
) -> None:
    """Whole pages as far as any stored sequence agrees, then the most tokens that any page behind these has."""
    tree = make_tree(page_size, stored)
    match = find_match(tree.root(""), tokens, page_size)
    contents = [content for _, content in page_contents(tree).values()]
    whole = [content for content in contents if len(content) % page_size == 0 and content == tokens[: len(content)]]
    end = max(map(len, whole), default=0)
    assert match.end == end
    behind = [
        content for content in contents if content[:end] == tokens[:end] and end < len(content) <= end + page_size
    ]
    assert match.num_tail == max((count_common(content[end:], tokens, end) for content in behind), default=0)
    if match.tail is not None:
        at = match.num_shared // page_size if match.tail is match.node else 0
        _, content = page_contents(tree)[int(match.tail.pages[at])]
        assert content[: end + match.num_tail] == tokens[: end + match.num_tail]


@given(stored=st.lists(tokens_strategy, max_size=8), page_size=st.integers(1, 4))
def test_all_that_was_stored_is_found(stored: list[tuple[int, ...]], page_size: int) -> None:
    tree = make_tree(page_size, stored)
    for tokens in stored:
        match = find_match(tree.root(""), tokens, page_size)
        assert match.end + match.num_tail == len(tokens)


def test_tokens_that_are_not_computed_are_shared_by_whole_pages_only() -> None:
    """Another request will have computed them when they are read; a copy would be made too early."""
    tree = make_tree(4, [])
    root = tree.root("")
    tree.lock(root)
    tree.insert(root, (1, 2, 3, 4, 5, 6, 7, 8), [1, 2], num_computed=0, num_locks=1)
    match = find_match(root, (1, 2, 3, 4, 5, 6, 9), 4)
    assert (match.end, match.tail, match.num_tail) == (4, None, 0)
