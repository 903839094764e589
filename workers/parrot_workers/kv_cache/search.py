"""Following tokens down the prefix tree. Nothing here changes the tree."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from parrot_workers.kv_cache.node import Node, Tokens

__all__ = ["Match", "count_common", "find_closest_child", "find_match"]


class Match(NamedTuple):
    """How far tokens lead down the tree.

    Attributes:
        node: The deepest node whose first page agrees, or the one where the search began.
        num_shared: Leading tokens of `node` that agree, in whole pages.
        tail: Where the next tokens agree, too few for a page: `node` itself behind `num_shared`, or a child of it.
        num_tail: How many of these agree and are computed; 0 if there is no tail.
    """

    node: Node
    num_shared: int
    tail: Node | None = None
    num_tail: int = 0

    @property
    def end(self) -> int:
        """Position behind the shared pages."""
        return self.node.start + self.num_shared

    @property
    def leaf(self) -> Node | None:
        """The leaf that all of its tokens lead to, if nobody holds it: nobody notices when it grows."""
        leaf = self.tail or self.node
        num_tokens = self.num_tail + (self.num_shared if leaf is self.node else 0)
        return leaf if leaf.is_free_leaf and num_tokens == len(leaf.tokens) else None


def find_match(node: Node, tokens: Tokens, page_size: int) -> Match:
    """Follow tokens down from the end of `node`."""
    position = 0
    while True:
        page = tokens[position : position + page_size]
        index = bisect_left(node.child_keys, page)
        if len(page) < page_size or index == len(node.children) or node.child_keys[index] != page:
            return Match(node, len(node.tokens), *find_closest_child(node, page))
        child = node.children[index]
        num_common = count_common(child.tokens, tokens, position)
        num_shared = num_common - num_common % page_size
        if num_shared < len(child.tokens):
            num_tail = max(0, min(num_common, child.num_computed) - num_shared)
            return Match(child, num_shared, child if num_tail else None, num_tail)
        node, position = child, position + num_shared


def find_closest_child(node: Node, page: Tokens) -> tuple[Node | None, int]:
    """The child with the most computed tokens in common with a page or less, which lies beside the page's place."""
    index = bisect_left(node.child_keys, page)
    closest, most = None, 0
    for position in range(max(0, index - 1), min(index + 1, len(node.children))):
        child = node.children[position]
        num = min(count_common(node.child_keys[position], page, 0), child.num_computed)
        if num > most:
            closest, most = child, num
    return closest, most


def count_common(segment: Tokens, tokens: Tokens, begin: int) -> int:
    """Count the leading tokens that `segment` and `tokens[begin:]` have in common.

    Bisects with slice comparisons: these run at the speed of memory, a loop over tokens does not.
    """
    low, high = 0, min(len(segment), len(tokens) - begin)
    if segment[:high] == tokens[begin : begin + high]:
        return high
    while high - low > 1:  # they agree before `low` and differ before `high`
        middle = (low + high) // 2
        if segment[low:middle] == tokens[begin + low : begin + middle]:
            low = middle
        else:
            high = middle
    return low
