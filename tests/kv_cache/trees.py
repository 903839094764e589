"""Prefix trees for tests, filled as the manager fills them, and what their pages hold."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from parrot_workers.kv_cache.node import Node
from parrot_workers.kv_cache.prefix_tree import PrefixTree
from parrot_workers.kv_cache.search import find_match

Tokens = tuple[int, ...]

_pages = count(1)


def store(tree: PrefixTree, tokens: Tokens, *, salt: str = "") -> Node:
    """Put computed tokens into a tree; returns the node where they end."""
    match = find_match(tree.root(salt), tokens, tree.page_size)
    rest = tokens[match.end :]
    if match.num_tail == len(rest):
        tree.touch(match.tail or match.node)
        return match.tail or match.node
    pages = [next(_pages) for _ in range(0, len(rest), tree.page_size)]
    if match.leaf is not None:
        tree.rewrite(match.leaf, match.num_shared if match.leaf is match.node else 0, rest, pages)
        return match.leaf
    return tree.insert(tree.place(match), rest, pages, num_computed=len(rest))


def make_tree(page_size: int, stored: Iterable[Tokens]) -> PrefixTree:
    """A tree that holds some sequences."""
    tree = PrefixTree(page_size)
    for tokens in stored:
        store(tree, tokens)
    return tree


def path(node: Node) -> Tokens:
    """All tokens from the first one of a sequence to the end of a node."""
    return node.tokens if node.parent is None else path(node.parent) + node.tokens


def page_contents(tree: PrefixTree) -> dict[int, tuple[str, Tokens]]:
    """Per page of a tree its salt, and all tokens of the sequence up to the end of the page."""
    contents = {}
    for node in tree.nodes():
        tokens = path(node)
        for index, page in enumerate(node.pages.tolist()):
            end = node.start + (index + 1) * tree.page_size
            contents[page] = (node.salt, tokens[:end])
    return contents
