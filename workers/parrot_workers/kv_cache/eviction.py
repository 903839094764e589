"""Which leaf goes first: those that no unfinished task needs before pinned ones, the least recently used first."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from parrot_workers.kv_cache.node import Node

__all__ = ["EvictionQueue"]


class _Entry(NamedTuple):
    """A leaf as it was when it was offered, in the order of eviction; keys are unique, so nodes are not compared."""

    is_pinned: bool
    last_used: int
    key: int
    node: Node


class EvictionQueue:
    """The leaves that nobody holds, as a heap. Entries that no longer hold are skipped when they come up.

    Args:
        page_size: Tokens of a page.
    """

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._heap: list[_Entry] = []
        self._max_entries = 64

    def __len__(self) -> int:
        return len(self._heap)

    def offer(self, node: Node) -> None:
        """Take a node in if it is a free leaf; to be called whenever it becomes one, is used or changes its pins."""
        if node.is_free_leaf:
            heappush(self._heap, self._entry(node))
            if len(self._heap) > self._max_entries:
                self._drop_stale()

    def first(self) -> Node | None:
        """The leaf to take pages from; it stays in the queue until it is none any more."""
        while self._heap:
            if self._is_valid(self._heap[0]):
                return self._heap[0].node
            heappop(self._heap)
        return None

    def num_free_pages(self, node: Node) -> int:
        """Pages at a leaf's end that no pinned prefix covers."""
        return len(node.pages) + (node.start - node.pinned_end) // self._page_size

    def missing(self, nodes: Iterable[Node]) -> list[Node]:
        """The free leaves among `nodes` that the queue would never come to: none, if all is well."""
        entries = set(self._heap)
        return [node for node in nodes if node.is_free_leaf and self._entry(node) not in entries]

    def _entry(self, node: Node) -> _Entry:
        return _Entry(not self.num_free_pages(node), node.last_used, node.key, node)

    def _is_valid(self, entry: _Entry) -> bool:
        return entry.node.is_free_leaf and entry == self._entry(entry.node)

    def _drop_stale(self) -> None:
        """Keep what holds; the limit follows the number of leaves, so this costs little per offer."""
        self._heap = list({entry.key: entry for entry in self._heap if self._is_valid(entry)}.values())
        heapify(self._heap)
        self._max_entries = 64 + 2 * len(self._heap)
