"""Who holds which pages: what running sequences share in the prefix tree, and what is their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from parrot_workers.kv_cache.integrity import check_cache
from parrot_workers.kv_cache.node import OWN, Node, Segment, Tokens, last_page
from parrot_workers.kv_cache.page_allocator import PageAllocator
from parrot_workers.kv_cache.prefix_tree import PrefixTree
from parrot_workers.kv_cache.search import Match, find_match
from parrot_workers.kv_cache.sequence_cache import Acquired, PageCopy, SequenceCache
from parrot_workers.kv_cache.statistics import CacheStatistics

__all__ = ["CacheManager"]


class CacheManager:
    """The paged KV cache without its tensors: decides which page holds which tokens.

    A prompt's whole pages enter the prefix tree when the sequence is acquired, before they are computed, so that
    sequences of the same step share them. The tokens of a node belong to nobody in particular: who is scheduled first
    computes the next missing ones, and if a sequence leaves half-way, another that holds the node goes on. Its last
    token, and what does not fill a page, a sequence keeps in pages of its own until it is released.

    A sequence that finishes, fails, is cancelled or preempted is released, always in the same way.

    Args:
        num_pages: Pages of the pool; page 0 is a dummy that is never handed out.
        page_size: Tokens of a page.
        is_sharing: False, for measurements: nothing enters the tree and nothing is found.

    Thread: all calls from one thread.
    """

    def __init__(self, *, num_pages: int, page_size: int = 16, is_sharing: bool = True) -> None:
        self.page_size = page_size
        self._is_sharing = is_sharing
        self._allocator = PageAllocator(num_pages)
        self._tree = PrefixTree(page_size)
        # Evicted together with what is needed, see `PrefixTree.evict`; not so many that a step has to wait for it.
        self._num_spare_pages = min(num_pages // 16, 1024)
        self._num_lookup_tokens = 0
        self._num_hit_tokens = 0
        self._num_copied_tokens = 0

    # Life of a sequence

    def acquire(self, tokens: Sequence[int], *, salt: str = "", keeps_pinned: bool = False) -> Acquired | None:
        """Find what the cache holds of a prompt and take pages for the rest of it.

        Args:
            tokens: The prompt, not empty.
            salt: Sequences with different salts share nothing.
            keeps_pinned: Whether pages lack rather than that pinned ones are evicted.

        Returns:
            None if pages lack; then nothing has changed. It may succeed once other sequences are released.
        """
        tokens = tuple(tokens)
        assert tokens, "a sequence has at least one token"
        root = self._tree.root(salt)
        match = find_match(root, tokens[:-1], self.page_size) if self._is_sharing else Match(root, 0)
        tree_end = (len(tokens) - 1) // self.page_size * self.page_size if self._is_sharing else 0
        leaf = match.leaf
        is_growing = leaf is not None and leaf.end < tree_end
        tail = _Tail(0, 0) if is_growing else self._tail(match)
        node = leaf if leaf is not None and is_growing else self._tree.place(match)
        self._tree.lock(node)
        num_pages = self._num_pages(len(tokens)) - self._num_pages(node.end)
        pages = self._allocate(num_pages, after=last_page(node.pages), keeps_pinned=keeps_pinned)
        if pages is None:
            self._tree.unlock(node)
            return None
        return self._occupy(node, tokens, tree_end, pages, tail)

    def num_cached(self, tokens: Sequence[int], *, salt: str = "") -> int:
        """How many leading tokens have their K/V here. Changes nothing."""
        root = self._tree.find_root(salt)
        if root is None:
            return 0
        match = find_match(root, tuple(tokens), self.page_size)
        end = match.end + match.num_tail  # the tail is computed, and so is what lies above it
        node: Node | None = match.node
        while node is not None:
            if node.num_computed < min(match.end, node.end) - node.start:
                end = node.start + node.num_computed
            node = node.parent
        return end

    def extend(self, cache: SequenceCache, num_tokens: int) -> bool:
        """Take pages for `num_tokens` tokens of a sequence in all.

        Returns:
            False if pages lack; then nothing has changed.
        """
        if num_tokens > cache.max_tokens:
            pages = self._allocate(self._num_pages(num_tokens - cache.max_tokens), after=cache.last_page)
            if pages is None:
                return False
            cache.append(pages, self.page_size)
        if num_tokens > cache.num_tokens:
            cache.num_tokens = num_tokens
        return True

    def segments(self, cache: SequenceCache) -> list[Segment]:
        """Where the K/V of a sequence lie: the nodes of its path, the outermost first, then its own pages."""
        num_tokens, num_computed = cache.num_tokens - cache.start, cache.num_computed - cache.start
        path = [Segment(OWN, cache.pages, cache.start, num_tokens, num_computed)]
        node = cache.node
        while node.parent is not None:
            path.append(node.segment)
            node = node.parent
        path.reverse()
        return path

    def mark_computed(self, cache: SequenceCache, end: int) -> None:
        """K/V of all tokens of a sequence before position `end` are there, whoever computed them."""
        assert end <= cache.max_tokens, f"{end} tokens cannot be computed in room for {cache.max_tokens}"
        if end > cache.num_computed:
            cache.num_computed = end
        node: Node | None = cache.node
        while node is not None and not node.is_computed:  # above a computed node all are
            node.mark_computed(min(end, node.end) - node.start)
            node = node.parent

    def num_computed(self, cache: SequenceCache) -> int:
        """Position of the first token of a sequence whose K/V are not there."""
        node, first = cache.node, cache.num_computed
        while not node.is_computed and node.parent is not None:
            node, first = node.parent, node.start + node.num_computed
        return first

    def release(self, cache: SequenceCache, tokens: Sequence[int]) -> None:
        """Let go of what a sequence holds. What is computed stays in the tree until its pages are needed.

        Args:
            cache: Not to be used any more.
            tokens: The tokens of the sequence, from its first one on. Those whose K/V are there enter the tree: what
                `mark_computed` has not been told of is not kept.
        """
        assert not cache.is_released, "a sequence is released twice"
        cache.is_released = True
        own: list[int] = cache.pages.tolist()
        num_computed = min(len(tokens), self.num_computed(cache))
        if self._is_sharing and num_computed > cache.start:
            own = self._keep(cache.node, tuple(tokens[cache.start : num_computed]), own)
        self._allocator.free(own)
        self._allocator.free(self._tree.unlock(cache.node))

    # Named prefixes

    def note_prefix(self, cache: SequenceCache, name: str, num_tokens: int) -> None:
        """Remember that the first `num_tokens` tokens of a sequence's prompt are the prefix `name`.

        Only the whole pages that it shares count: a prefix shorter than a page is not remembered.
        """
        end = min(num_tokens, cache.start) // self.page_size * self.page_size
        if end:
            self._tree.note_prefix(name, end, cache.node)

    def pin(self, names: Iterable[str]) -> None:
        """Evict these prefixes only when nothing else is left: the complete set, which replaces the former one.

        Names that are not known yet count once they are noted.
        """
        self._tree.pin(names)

    def resident(self) -> list[str]:
        """Names of the prefixes whose K/V are all there, the most recently noted first."""
        return self._tree.notes.resident()

    # What there is

    def can_fit(self, num_tokens: int) -> bool:
        """True if a sequence of so many tokens would fit if it ran alone."""
        return self._num_pages(num_tokens) < self._allocator.num_pages

    def statistics(self) -> CacheStatistics:
        """Count pages and tokens."""
        return CacheStatistics(
            num_pages=self._allocator.num_pages - 1,
            num_free_pages=self._allocator.num_free,
            num_cached_pages=self._tree.num_pages - self._tree.num_locked_pages,
            num_locked_pages=self._tree.num_locked_pages,
            num_pinned_pages=self._num_pinned_pages(),
            num_evicted_pages=self._tree.num_evicted_pages,
            num_lookup_tokens=self._num_lookup_tokens,
            num_hit_tokens=self._num_hit_tokens,
            num_copied_tokens=self._num_copied_tokens,
        )

    def check_integrity(self, running: Iterable[SequenceCache] = ()) -> None:
        """Prove that every page is in one place, and that allocator, tree and sequences keep their rules.

        Args:
            running: All sequences that were acquired and not released.

        Raises:
            AssertionError: Something is broken: an error of this package, or of the caller.
        """
        check_cache(self._allocator, self._tree, list(running))

    # Steps

    def _num_pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def _tail(self, match: Match) -> _Tail:
        """Where the tokens behind the shared pages can be copied from."""
        if match.tail is None:
            return _Tail(0, 0)
        self._tree.touch(match.tail)
        index = match.num_shared // self.page_size if match.tail is match.node else 0
        return _Tail(int(match.tail.pages[index]), match.num_tail)

    def _allocate(self, num: int, *, after: int, keeps_pinned: bool = False) -> list[int] | None:
        """Take pages, evicting what nobody holds; None if even that is too little."""
        num_lacking = num - self._allocator.num_free
        if num_lacking > 0:
            if num_lacking > self._num_evictable(keeps_pinned=keeps_pinned):
                return None
            self._allocator.free(self._tree.evict(num_lacking, spare=self._num_spare_pages))
        return self._allocator.allocate(num, after=after)

    def _num_evictable(self, *, keeps_pinned: bool) -> int:
        """Pages that nobody holds; at the least, those of them that are not pinned."""
        num = self._tree.num_pages - self._tree.num_locked_pages
        return num - self._num_pinned_pages() if keeps_pinned else num

    def _num_pinned_pages(self) -> int:
        """Pages that nobody holds, of nodes that a pinned prefix covers, if only in part."""
        return sum(len(node.pages) for node in self._tree.notes.pinned_nodes() if not node.num_locks)

    def _occupy(self, node: Node, tokens: Tokens, tree_end: int, pages: list[int], tail: _Tail) -> Acquired:
        """Fill the pages behind `node`, which the sequence holds: up to `tree_end` in the tree, the rest its own."""
        self._num_lookup_tokens += len(tokens)
        self._num_hit_tokens += node.end + tail.num_tokens
        self._num_copied_tokens += tail.num_tokens
        copies = [PageCopy(tail.page, pages[0], tail.num_tokens)] if tail.num_tokens else []
        num_tree_pages = max(0, self._num_pages(tree_end) - self._num_pages(node.end))
        num_own_computed = tail.num_tokens
        if tree_end > node.end:
            node = self._lengthen(node, tokens[node.end : tree_end], pages[:num_tree_pages], tail.num_tokens)
            num_own_computed = 0
        cache = SequenceCache(node, num_tokens=len(tokens), num_computed=node.end + num_own_computed)
        cache.append(pages[num_tree_pages:], self.page_size)
        return Acquired(cache, copies, self.num_computed(cache))

    def _lengthen(self, node: Node, tokens: Tokens, pages: list[int], num_computed: int) -> Node:
        """Go on with a path that the sequence holds: in its last node if nobody else can tell, else in a new one."""
        if node.is_alone:
            self._tree.grow(node, tokens, pages)
            return node
        return self._tree.insert(node, tokens, pages, num_computed=num_computed, num_locks=1)

    def _keep(self, node: Node, tokens: Tokens, pages: list[int]) -> list[int]:
        """Take the computed tokens behind `node` into the tree.

        Returns:
            The pages that are free then: duplicates, and those that were not used yet.
        """
        if node.is_alone:
            num_pages = self._num_pages(len(tokens))
            return self._tree.rewrite(node, len(node.tokens), tokens, pages[:num_pages]) + pages[num_pages:]
        match = find_match(node, tokens, self.page_size)
        num_known = match.end - node.end
        rest = tokens[num_known:]
        if match.num_tail == len(rest) or not match.node.is_computed:  # known already, or about to be computed
            self._tree.touch(match.tail or match.node)
            return pages
        first = num_known // self.page_size
        last = first + self._num_pages(len(rest))
        return pages[:first] + pages[last:] + self._store(match, rest, pages[first:last])

    def _store(self, match: Match, tokens: Tokens, pages: list[int]) -> list[int]:
        """Put computed tokens behind the shared pages of a match; returns pages that are free then."""
        leaf = match.leaf
        if leaf is not None:
            return self._tree.rewrite(leaf, match.num_shared if leaf is match.node else 0, tokens, pages)
        self._tree.insert(self._tree.place(match), tokens, pages, num_computed=len(tokens))
        return []


class _Tail(NamedTuple):
    """The page that holds K/V of the next tokens, and how many of them; none: 0."""

    page: int
    num_tokens: int
