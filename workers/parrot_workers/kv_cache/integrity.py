"""Proofs that no page is lost and that the tree keeps its rules: when the engine is idle, and after steps of tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from parrot_workers.kv_cache.node import Node
from parrot_workers.kv_cache.page_allocator import PageAllocator
from parrot_workers.kv_cache.prefix_tree import PrefixTree
from parrot_workers.kv_cache.sequence_cache import SequenceCache

__all__ = ["check_cache", "check_tree"]


def check_cache(allocator: PageAllocator, tree: PrefixTree, running: list[SequenceCache]) -> None:
    """Prove that every page is in one place: free, in the tree, or a running sequence's own.

    Args:
        allocator: Of the pages.
        tree: What is shared.
        running: All sequences that hold something.

    Raises:
        AssertionError: A rule is broken.
    """
    allocator.check_integrity()
    check_tree(tree, [cache.node for cache in running])
    for cache in running:
        _check_sequence(cache, tree.page_size)
    pages = allocator.free_pages()
    pages += [page for node in tree.nodes() for page in node.pages.tolist()]
    pages += [page for cache in running for page in cache.pages.tolist()]
    assert len(pages) == len(set(pages)), "a page is in two places"
    assert sorted(pages) == list(range(1, allocator.num_pages)), "pages are lost"


def _check_sequence(cache: SequenceCache, page_size: int) -> None:
    assert not cache.is_released, "a running sequence is released"
    assert cache.start == cache.node.end, "a sequence's own pages do not begin where its path ends"
    assert cache.max_tokens == cache.start + len(cache.pages) * page_size, "room is counted wrong"
    assert 0 <= cache.max_tokens - cache.num_tokens < page_size, "pages without tokens, or tokens without pages"
    assert cache.start <= cache.num_computed <= cache.max_tokens, "computed tokens are counted wrong"
    assert cache.num_computed == cache.start or cache.node.is_computed, "tokens are computed, and their path is not"


def check_tree(tree: PrefixTree, held: Iterable[Node]) -> None:
    """Prove the rules of `PrefixTree`.

    Args:
        tree: The tree.
        held: The node where the path of each running sequence ends.

    Raises:
        AssertionError: A rule is broken.
    """
    nodes = list(tree.nodes())
    locks = _locks(held)
    assert not locks.keys() - set(nodes), "a running sequence holds a node that has left the tree"
    for node in nodes:
        _check_segment(tree, node)
        _check_children(tree, node)
        assert node.num_locks == locks[node], f"{node.num_locks} locks, and {locks[node]} sequences hold the node"
        _check_computed(node)
    assert tree.num_pages == sum(len(node.pages) for node in nodes), "pages of the tree are counted wrong"
    locked = sum(len(node.pages) for node in nodes if node.num_locks)
    assert tree.num_locked_pages == locked, f"{tree.num_locked_pages} pages are counted as locked, and {locked} are"
    assert not tree.evictable.missing(nodes), "a leaf would never be evicted"
    _check_notes(tree, set(nodes))


def _locks(held: Iterable[Node]) -> Counter[Node]:
    locks: Counter[Node] = Counter()
    for end in held:
        node: Node | None = end
        while node is not None:
            locks[node] += 1
            node = node.parent
    return locks


def _check_segment(tree: PrefixTree, node: Node) -> None:
    num_pages = -(-len(node.tokens) // tree.page_size)
    assert len(node.pages) == num_pages, f"{len(node.tokens)} tokens in {len(node.pages)} pages"
    assert node.start % tree.page_size == 0, "a segment begins inside a page"
    _, pages, *rest = node.segment
    is_fresh = pages is node.pages and rest == [node.start, len(node.tokens), node.num_computed]
    assert is_fresh, "what the attention plan sees of a node is out of date"
    if node.parent is None:
        assert not node.tokens, "a root has tokens"
        assert node.children or node.num_locks, "an unused root is kept"
        return
    assert node.tokens, "a node has no tokens"
    assert node.start == node.parent.end, "a node does not begin where its parent ends"
    assert node.salt == node.parent.salt, "salts are mixed"
    is_whole = len(node.tokens) % tree.page_size == 0
    assert is_whole or node.is_free_leaf, "a node ends inside a page although it is held or has children"


def _check_children(tree: PrefixTree, node: Node) -> None:
    assert all(child.parent is node for child in node.children), "a child does not know its parent"
    keys = [child.tokens[: tree.page_size] for child in node.children]
    assert node.child_keys == keys, "keys of children are wrong"
    assert keys == sorted(set(keys)), "children are out of order, or agree in their first page"


def _check_computed(node: Node) -> None:
    assert 0 <= node.num_computed <= len(node.tokens), f"{node.num_computed} of {len(node.tokens)} tokens computed"
    assert node.num_locks or node.is_computed, "nobody holds the node and it is not computed"
    if node.parent is not None and node.num_computed:
        assert node.parent.is_computed, "a node is computed above which something is not"


def _check_notes(tree: PrefixTree, nodes: set[Node]) -> None:
    notes = list(tree.notes)
    attached = [note for node in nodes for note in node.notes]
    assert len(attached) == len(notes), "notes are lost"
    assert set(attached) == set(notes), "notes hang on nodes that do not know them"
    for note in notes:
        assert note in note.node.notes, "a note hangs on another node than it says"
        assert note.node.start < note.end <= note.node.end, "a note hangs on a node that does not hold its end"
        assert note.is_whole or note.is_pinned, "a note that is neither whole nor pinned is kept"
        assert note.end % tree.page_size == 0 or not note.is_whole, "a note ends inside a page"
