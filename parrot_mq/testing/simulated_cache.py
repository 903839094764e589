"""A prefix cache without keys and values: which prefixes are there, how far, and what gives way."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["CacheNode", "SimulatedCache", "SimulatedSegment"]


@dataclass(frozen=True, slots=True)
class SimulatedSegment:
    """A part of a prompt.

    Attributes:
        hash: Of all content up to its end, as in `Generation.prefix_hashes`: equal hashes mean equal prefixes.
        num_tokens: How many tokens it has itself.
    """

    hash: str
    num_tokens: int


@dataclass(slots=True, eq=False)
class CacheNode:
    """A segment in the cache, behind the one before it.

    Attributes:
        key: Salt and hash.
        num_tokens: Its tokens.
        num_pages: Pages that it takes; it begins on a page of its own.
        num_computed: Of its tokens, those that are computed, from its beginning.
        num_users: Sequences that hold it.
        num_children: Nodes behind it.
        last_used: Grows with every use.
    """

    key: tuple[str, str]
    parent: CacheNode | None
    num_tokens: int
    num_pages: int
    num_computed: int = 0
    num_users: int = 0
    num_children: int = 0
    last_used: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether all of it is computed."""
        return self.num_computed == self.num_tokens

    @property
    def is_idle_leaf(self) -> bool:
        """Whether it can be evicted now."""
        return not self.num_users and not self.num_children


@dataclass(slots=True)
class SimulatedCache:
    """Pages for prefixes that several sequences may hold, and for what each sequence has for itself.

    A segment is there as a whole or not at all: its pages are taken when the first sequence comes that has it. Whoever
    has it may compute it, so nobody waits for a sequence that was cancelled. What nobody holds stays until its pages
    are needed: first what is not pinned, of that the least recently used, and never a prefix before what lies behind.

    Args:
        num_pages: Pages in all.
        page_size: Tokens of a page.
    """

    num_pages: int
    page_size: int
    num_evicted_pages: int = 0
    num_held_tokens: int = 0
    """Computed tokens of nodes that are held, each once."""
    num_flat_tokens: int = 0
    """The same, each as often as it is held."""
    num_own_pages: int = 0
    """Pages that sequences have for themselves."""
    num_held_pages: int = 0
    """Pages of nodes that are held."""
    num_idle_pages: int = 0
    """Pages of nodes that nobody holds."""
    _nodes: dict[tuple[str, str], CacheNode] = field(default_factory=dict)
    _pinned: frozenset[str] = frozenset()
    _evictable: list[tuple[int, CacheNode]] = field(default_factory=list)
    _ticks: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def num_free_pages(self) -> int:
        """Pages that nobody uses."""
        return self.num_pages - self.num_own_pages - self.num_held_pages - self.num_idle_pages

    @property
    def num_available_pages(self) -> int:
        """Pages that are free, or can be."""
        return self.num_free_pages + self.num_idle_pages

    @property
    def num_pinned_pages(self) -> int:
        """Pages of nodes that nobody holds and somebody will need."""
        return sum(node.num_pages for node in self._nodes.values() if not node.num_users and self._is_pinned(node))

    def pages_for(self, num_tokens: int) -> int:
        """Pages that so many tokens take."""
        return -(-num_tokens // self.page_size)

    def pin(self, hashes: Iterable[str]) -> None:
        """Evict these last: the complete set, which replaces the former one."""
        self._pinned = frozenset(hashes)

    # -- prefixes ----------------------------------------------------------------------------------------------------

    def num_missing_pages(self, salt: str, segments: Sequence[SimulatedSegment]) -> int:
        """Pages that are not free after `acquire` and are available now."""
        found = [self._nodes.get((salt, segment.hash)) for segment in segments]
        new = sum(self.pages_for(each.num_tokens) for each, node in zip(segments, found, strict=True) if node is None)
        return new + sum(node.num_pages for node in found if node is not None and not node.num_users)

    def acquire(self, salt: str, segments: Sequence[SimulatedSegment]) -> tuple[CacheNode, ...]:
        """Hold the nodes of a prompt; those that are not there begin empty. `num_missing_pages` must be available."""
        path: list[CacheNode] = []
        for segment in segments:
            path.append(self._hold((salt, segment.hash), path[-1] if path else None, segment.num_tokens))
        return tuple(path)

    def release(self, path: Sequence[CacheNode], *, keep: bool = True) -> None:
        """Let a path go. What is computed stays, unless `keep` is False; what is not complete does not."""
        for node in reversed(path):
            node.num_users -= 1
            self.num_flat_tokens -= node.num_computed
            if node.num_users:
                continue
            self.num_held_tokens -= node.num_computed
            self.num_held_pages -= node.num_pages
            if keep and node.is_complete:
                self.num_idle_pages += node.num_pages
                self._note_evictable(node)
            else:
                self._remove(node)

    def compute(self, node: CacheNode, num_tokens: int) -> None:
        """Note that the next tokens of a held node are computed."""
        node.num_computed += num_tokens
        assert node.num_users > 0
        assert node.num_computed <= node.num_tokens
        self.num_held_tokens += num_tokens
        self.num_flat_tokens += num_tokens * node.num_users

    # -- what a sequence has for itself ------------------------------------------------------------------------------

    def take_own_pages(self, num_pages: int) -> bool:
        """Give pages to a sequence; False if there are none left."""
        if num_pages > self.num_available_pages:
            return False
        self._evict(num_pages - self.num_free_pages)
        self.num_own_pages += num_pages
        return True

    def return_own_pages(self, num_pages: int) -> None:
        """Take pages back from a sequence."""
        self.num_own_pages -= num_pages

    def keep_own_pages(self, path: Sequence[CacheNode], name: str, *, num_tokens: int, num_pages: int) -> None:
        """Take an output and its pages into the cache, behind the prompt that it belongs to, under its hash."""
        self.num_own_pages -= num_pages
        key = (path[-1].key[0], name)
        if key in self._nodes:
            return
        node = CacheNode(key, path[-1], num_tokens, num_pages, num_computed=num_tokens, last_used=next(self._ticks))
        path[-1].num_children += 1
        self._nodes[key] = node
        self.num_idle_pages += num_pages
        self._note_evictable(node)

    # -- room --------------------------------------------------------------------------------------------------------

    def _hold(self, key: tuple[str, str], parent: CacheNode | None, num_tokens: int) -> CacheNode:
        node = self._nodes.get(key)
        if node is None:
            node = CacheNode(key, parent, num_tokens, self.pages_for(num_tokens))
            self._evict(node.num_pages - self.num_free_pages)
            self._nodes[key] = node
            self.num_held_pages += node.num_pages
            if parent is not None:
                parent.num_children += 1
        elif not node.num_users:
            self.num_idle_pages -= node.num_pages
            self.num_held_pages += node.num_pages
            self.num_held_tokens += node.num_computed
        node.num_users += 1
        node.last_used = next(self._ticks)
        self.num_flat_tokens += node.num_computed
        return node

    def _evict(self, num_pages: int) -> None:
        """Free at least so many pages; they must be there."""
        spared: list[tuple[int, CacheNode]] = []
        freed = 0
        while freed < num_pages:
            if not self._evictable:  # nothing is left but what somebody will need
                self._evictable, spared = spared, []
                heapq.heapify(self._evictable)
                freed += self._evict_one(spare=None)
            else:
                freed += self._evict_one(spare=spared)
        for entry in spared:
            heapq.heappush(self._evictable, entry)

    def _evict_one(self, *, spare: list[tuple[int, CacheNode]] | None) -> int:
        entry = heapq.heappop(self._evictable)
        last_used, node = entry
        if self._nodes.get(node.key) is not node or not node.is_idle_leaf or node.last_used != last_used:
            return 0
        if spare is not None and self._is_pinned(node):
            spare.append(entry)
            return 0
        self.num_idle_pages -= node.num_pages
        self.num_evicted_pages += node.num_pages
        self._remove(node)
        return node.num_pages

    def _remove(self, node: CacheNode) -> None:
        del self._nodes[node.key]
        if node.parent is not None:
            node.parent.num_children -= 1
            self._note_evictable(node.parent)

    def _note_evictable(self, node: CacheNode) -> None:
        if node.is_idle_leaf and node.is_complete:
            heapq.heappush(self._evictable, (node.last_used, node))

    def _is_pinned(self, node: CacheNode) -> bool:
        return node.key[1] in self._pinned

    def check_integrity(self) -> None:
        """Assert that pages and tokens are counted right and that no prefix is missing before what lies behind it."""
        nodes = list(self._nodes.values())
        held = [node for node in nodes if node.num_users]
        idle = [node for node in nodes if not node.num_users]
        assert self.num_held_pages == sum(node.num_pages for node in held)
        assert self.num_idle_pages == sum(node.num_pages for node in idle)
        assert self.num_held_tokens == sum(node.num_computed for node in held)
        assert self.num_flat_tokens == sum(node.num_computed * node.num_users for node in held)
        assert self.num_free_pages >= 0
        assert all(node.is_complete for node in idle)
        waiting = {id(node) for last_used, node in self._evictable if last_used == node.last_used}
        for node in nodes:
            assert 0 <= node.num_computed <= node.num_tokens
            assert node.num_children == sum(other.parent is node for other in nodes)
            assert node.parent is None or self._nodes[node.parent.key] is node.parent
            assert node.parent is None or node.parent.num_users >= node.num_users > 0 or not node.num_users
            assert not node.is_idle_leaf or id(node) in waiting
