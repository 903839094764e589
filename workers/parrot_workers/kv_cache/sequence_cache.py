"""What a running sequence holds, and what it begins with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from parrot_workers.kv_cache.node import Node, Pages, last_page

__all__ = ["Acquired", "PageCopy", "SequenceCache"]


class PageCopy(NamedTuple):
    """K/V of the first `num_tokens` tokens of page `source` are to be copied to page `target`, in all layers."""

    source: int
    target: int
    num_tokens: int


class SequenceCache:
    """What a running sequence holds: a path in the tree, and behind it pages of its own.

    Attributes:
        node: Where its path ends.
        start: Position of the first token in its own pages.
        pages: Its own pages, int32.
        num_tokens: Tokens that it has asked pages for.
        max_tokens: Tokens that its pages have room for, the path counted.
        num_computed: Position of the first token in its own pages that is not computed.
        is_released: True when it holds nothing any more.
    """

    __slots__ = ("_buffer", "is_released", "max_tokens", "node", "num_computed", "num_tokens", "pages", "start")

    def __init__(self, node: Node, *, num_tokens: int, num_computed: int) -> None:
        self.node = node
        self.start = node.end
        self.num_tokens = num_tokens
        self.max_tokens = self.start
        self.num_computed = num_computed
        self.is_released = False
        self._buffer: Pages = np.empty(8, dtype=np.int32)
        self.pages = self._buffer[:0]

    @property
    def last_page(self) -> int:
        """The page that the next one should follow; 0 if there is none."""
        return last_page(self.pages) or last_page(self.node.pages)

    def append(self, pages: Sequence[int], page_size: int) -> None:
        """Take pages at the end of its own; the array grows by doubling."""
        num_before, num = len(self.pages), len(self.pages) + len(pages)
        if num > len(self._buffer):
            buffer = np.empty(2 * num, dtype=np.int32)
            buffer[:num_before] = self.pages
            self._buffer = buffer
        self._buffer[num_before:num] = pages
        self.pages = self._buffer[:num]
        self.max_tokens += len(pages) * page_size


class Acquired(NamedTuple):
    """What a sequence begins with.

    Attributes:
        cache: What it holds.
        copies: To be made before the next forward pass, in the order in which they were handed out; also if the
            sequence is released before that, since others may count on them already.
        num_cached: Leading tokens that nobody needs to compute: they are computed, or copied. Never all of its tokens.
    """

    cache: SequenceCache
    copies: list[PageCopy]
    num_cached: int
