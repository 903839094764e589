"""A radix tree over token ids, one per salt, whose nodes hold the pages of their tokens' K/V."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

import numpy as np

from parrot_workers.kv_cache.eviction import EvictionQueue
from parrot_workers.kv_cache.node import Node, Pages, Tokens
from parrot_workers.kv_cache.prefix_notes import PrefixNotes
from parrot_workers.kv_cache.search import Match, find_closest_child

__all__ = ["PrefixTree"]


class PrefixTree:
    """Holds what has been computed, or is being computed, where the next request can find it.

    Rules, proven by `check_tree` in `integrity.py`:

    - A segment begins on a fresh page. Only a leaf that nobody holds may end inside a page.
    - No two children of a node agree in their first page, so a path of tokens leads down one way only.
    - If a token of a node is computed, all nodes above it are computed.
    - What nobody holds is computed.

    Args:
        page_size: Tokens of a page.
        max_notes: Names of prefixes to remember.
    """

    def __init__(self, page_size: int, *, max_notes: int = 4096) -> None:
        self.page_size = page_size
        self.num_pages = 0
        self.num_locked_pages = 0
        self.num_evicted_pages = 0
        self.notes = PrefixNotes(max_notes)
        self.evictable = EvictionQueue(page_size)
        self._roots: dict[str, Node] = {}
        self._now = 0

    def root(self, salt: str) -> Node:
        """Where the paths of a salt begin. An unused one is forgotten when the last lock or child goes."""
        if salt not in self._roots:
            self._roots[salt] = Node(salt=salt, parent=None, start=0, tokens=(), pages=_pages(()))
        return self._roots[salt]

    def find_root(self, salt: str) -> Node | None:
        """The same, if there is one."""
        return self._roots.get(salt)

    def nodes(self) -> Iterator[Node]:
        """All nodes, parents before children, roots too."""
        waiting = list(self._roots.values())
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.children

    # Growth

    def place(self, match: Match) -> Node:
        """The node that ends where the shared pages of a match end; it is split off where there is none yet."""
        node, num_shared = match.node, match.num_shared
        return node if num_shared == len(node.tokens) else self._split(node, num_shared)

    def insert(self, parent: Node, tokens: Tokens, pages: list[int], *, num_computed: int, num_locks: int = 0) -> Node:
        """Hang a new node below `parent`."""
        node = Node(salt=parent.salt, parent=parent, start=parent.end, tokens=tokens, pages=_pages(pages))
        node.num_computed = num_computed
        node.num_locks = num_locks
        node.last_used = self._now
        self._attach(node)
        self._count(node, len(pages))
        self.evictable.offer(node)
        return node

    def grow(self, leaf: Node, tokens: Tokens, pages: list[int]) -> None:
        """Go on, in a leaf that one sequence holds, with tokens to be computed. Its last page is filled up first."""
        self._set(leaf, leaf.tokens + tokens, np.concatenate((leaf.pages, _pages(pages))), leaf.num_computed)

    def rewrite(self, leaf: Node, num_kept: int, tokens: Tokens, pages: list[int]) -> list[int]:
        """Keep the first `num_kept` tokens (whole pages) of a free leaf; computed ones in other pages follow them.

        Returns:
            The pages that are free now.
        """
        num_pages = num_kept // self.page_size
        freed: list[int] = leaf.pages[num_pages:].tolist()
        kept = np.concatenate((leaf.pages[:num_pages], _pages(pages)))
        self._set(leaf, leaf.tokens[:num_kept] + tokens, kept, num_kept + len(tokens))
        self.touch(leaf)
        return freed

    def _split(self, node: Node, num_tokens: int) -> Node:
        """Cut a node in two; what pointed to it points to the second part, so locks and paths stay right.

        [start ........ node ........ end)  ->  [start .. upper .. at) [at .. node .. end)
        """
        assert 0 < num_tokens < len(node.tokens)
        assert num_tokens % self.page_size == 0
        assert node.parent is not None
        num_pages, num_computed = num_tokens // self.page_size, node.num_computed
        upper = Node(
            salt=node.salt,
            parent=node.parent,
            start=node.start,
            tokens=node.tokens[:num_tokens],
            pages=node.pages[:num_pages],
        )
        upper.num_computed, upper.num_locks = min(num_computed, num_tokens), node.num_locks
        upper.last_used = node.last_used
        siblings = node.parent.children
        siblings[bisect_left(node.parent.child_keys, self._key(node))] = upper
        rest = max(0, num_computed - num_tokens)
        node.assign(upper.end, node.tokens[num_tokens:], node.pages[num_pages:], rest)
        node.parent = upper
        upper.children, upper.child_keys = [node], [self._key(node)]
        self.notes.split(upper, node)
        self.evictable.offer(node)
        return upper

    # Locks

    def lock(self, node: Node) -> None:
        """A sequence holds the path to `node`: none of it is evicted."""
        step: Node | None = node
        while step is not None:
            if not step.num_locks:
                self.num_locked_pages += len(step.pages)
            step.num_locks += 1
            step = step.parent

    def unlock(self, node: Node) -> list[int]:
        """A sequence leaves the path to `node`. What nobody else holds keeps its computed tokens only.

        Returns:
            The pages that are free now.
        """
        self._now += 1
        freed: list[int] = []
        step: Node | None = node
        while step is not None:
            parent = step.parent
            assert step.num_locks > 0, "unlocked more often than locked"
            step.num_locks -= 1
            step.last_used = self._now
            if not step.num_locks:
                self.num_locked_pages -= len(step.pages)
                freed += self._settle(step)
            step = parent
        return freed

    def touch(self, node: Node) -> None:
        """The path to `node` was of use: it is evicted later."""
        self._now += 1
        step: Node | None = node
        while step is not None:
            step.last_used = self._now
            step = step.parent
        self.evictable.offer(node)

    def _settle(self, node: Node) -> list[int]:
        """Nobody holds `node` any more."""
        if node.parent is None:
            self._forget_root(node)
            return []
        freed = [] if node.is_computed else self._keep_computed(node)
        self.evictable.offer(node)
        return freed

    def _keep_computed(self, node: Node) -> list[int]:
        """Cut a leaf down to its computed tokens; to nothing if another node has these as well."""
        assert not node.children, "what lies below a node that is not computed is held, or gone"
        return self._trim(node, 0 if self._is_duplicate(node) else node.num_computed)

    def _is_duplicate(self, node: Node) -> bool:
        """True if a sibling has the computed tokens of `node` too; only less than a page can be in two places."""
        assert node.parent is not None
        self._detach(node)
        _, num_common = find_closest_child(node.parent, self._key(node)[: node.num_computed])
        self._attach(node)
        return num_common == node.num_computed

    # Eviction

    def evict(self, num_pages: int, *, spare: int = 0) -> list[int]:
        """Free pages that nobody holds: leaves that are not pinned first, of these the least recently used first.

        A leaf gives pages from its end, so a long one need not go whole.

        Args:
            num_pages: Pages wanted.
            spare: Further pages, as long as they are not pinned: freed together, they lie side by side more often.

        Returns:
            The pages that are free now; fewer than wanted if there are no more.
        """
        freed: list[int] = []
        while (leaf := self.evictable.first()) is not None:
            num_free = self.evictable.num_free_pages(leaf)
            wanted = num_pages - len(freed) + (spare if num_free else 0)
            if wanted <= 0:
                break
            num = min(wanted, num_free or len(leaf.pages))
            freed += self._trim(leaf, (len(leaf.pages) - num) * self.page_size)
            if num == num_free:  # what is left of it is pinned
                self.evictable.offer(leaf)
        self.num_evicted_pages += len(freed)
        return freed

    def note_prefix(self, name: str, end: int, node: Node) -> None:
        """Remember that `name` is the first `end` tokens of the path to `node`."""
        for changed in self.notes.note(name, end, node):
            self.evictable.offer(changed)

    def pin(self, names: Iterable[str]) -> None:
        """Replace the set of prefixes that are evicted last."""
        for node in self.notes.pin(names):
            self.evictable.offer(node)

    # Changes of one node

    def _trim(self, node: Node, num_tokens: int) -> list[int]:
        """Cut a leaf down to its first tokens, or remove it."""
        num_pages = -(-num_tokens // self.page_size)
        freed: list[int] = node.pages[num_pages:].tolist()
        self._set(node, node.tokens[:num_tokens], node.pages[:num_pages], min(num_tokens, node.num_computed))
        self.notes.shrink(node)
        if not num_tokens:
            self._remove(node)
        return freed

    def _set(self, node: Node, tokens: Tokens, pages: Pages, num_computed: int) -> None:
        """Change what a leaf holds; if its first page changes, so does its place among its siblings."""
        is_moving = len(node.tokens) < self.page_size or len(tokens) < self.page_size
        if is_moving:
            self._detach(node)
        self._count(node, len(pages) - len(node.pages))
        node.assign(node.start, tokens, pages, num_computed)
        if is_moving:
            self._attach(node)

    def _remove(self, node: Node) -> None:
        parent = node.parent
        assert parent is not None
        self._detach(node)
        node.parent = None
        self.evictable.offer(parent)
        self._forget_root(parent)

    def _forget_root(self, node: Node) -> None:
        if node.parent is None and not node.children and not node.num_locks:
            del self._roots[node.salt]

    def _attach(self, node: Node) -> None:
        assert node.parent is not None
        index = bisect_left(node.parent.child_keys, self._key(node))
        node.parent.child_keys.insert(index, self._key(node))
        node.parent.children.insert(index, node)

    def _detach(self, node: Node) -> None:
        assert node.parent is not None
        index = bisect_left(node.parent.child_keys, self._key(node))
        assert node.parent.children[index] is node
        del node.parent.children[index], node.parent.child_keys[index]

    def _key(self, node: Node) -> Tokens:
        return node.tokens[: self.page_size]

    def _count(self, node: Node, num_pages: int) -> None:
        self.num_pages += num_pages
        if node.num_locks:
            self.num_locked_pages += num_pages


def _pages(pages: Iterable[int]) -> Pages:
    return np.array(tuple(pages), dtype=np.int32)
