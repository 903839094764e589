"""One segment of the prefix tree, and how the attention plan sees it."""

from __future__ import annotations

from itertools import count
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["OWN", "Node", "Note", "Pages", "Segment", "Tokens", "last_page"]

Tokens: TypeAlias = tuple[int, ...]
Pages: TypeAlias = NDArray[np.int32]

OWN = -1
"""Key of the segment that belongs to one sequence only."""

_keys = count()


class Segment(NamedTuple):
    """A part of a sequence's path that begins on a fresh page.

    Attributes:
        key: Which node of the tree it is, so equal keys mean the same K/V; `OWN` for a sequence's own pages.
        pages: Where its K/V lie, shape [ceil(num_tokens / page_size)], int32; not to be changed.
        start: Position of its first token in the sequence.
        num_tokens: Its tokens; whole pages, but for the own segment.
        num_computed: Leading tokens of it whose K/V are there.
    """

    key: int
    pages: Pages
    start: int
    num_tokens: int
    num_computed: int


class Note:
    """A named prefix: the first `end` tokens of the path to `node`.

    Attributes:
        name: Its hash.
        end: Tokens of the prefix, whole pages; of a prefix that is not whole, as many as the tree has held ever since.
        node: The deepest node that holds some of them.
        is_pinned: Whether an unfinished task needs it.
        is_whole: Whether the tree has held all of it ever since it was noted; what was lost may be other tokens now.
    """

    __slots__ = ("end", "is_pinned", "is_whole", "name", "node")

    def __init__(self, name: str, end: int, node: Node, is_pinned: bool) -> None:
        self.name = name
        self.end = end
        self.node = node
        self.is_pinned = is_pinned
        self.is_whole = True

    @property
    def is_resident(self) -> bool:
        """True while K/V of all of the prefix are there."""
        return self.is_whole and self.end <= self.node.start + self.node.num_computed


class Node:
    """A segment of tokens and the pages of their K/V. Only a leaf may end inside a page.

    Attributes:
        key: Unique, never used again.
        salt: Of its tree.
        parent: None for the root, and for a node that has left the tree.
        child_keys: The first page of each child's tokens, sorted.
        children: In the order of `child_keys`.
        start: Position of its first token.
        tokens: Its tokens; empty for the root only.
        pages: Its pages, shape [ceil(len(tokens) / page_size)], int32.
        num_computed: Leading tokens of it whose K/V are there.
        num_locks: Running sequences whose path leads through it.
        last_used: Time of the tree's clock when a sequence last left it.
        notes: Named prefixes that end in it, or that ended below it and are pinned.
    """

    __slots__ = (
        "_segment",
        "child_keys",
        "children",
        "key",
        "last_used",
        "notes",
        "num_computed",
        "num_locks",
        "pages",
        "parent",
        "salt",
        "start",
        "tokens",
    )

    def __init__(self, *, salt: str, parent: Node | None, start: int, tokens: Tokens, pages: Pages) -> None:
        self.key = next(_keys)
        self.salt = salt
        self.parent = parent
        self.child_keys: list[Tokens] = []
        self.children: list[Node] = []
        self.start = start
        self.tokens = tokens
        self.pages = pages
        self.num_computed = 0
        self.num_locks = 0
        self.last_used = 0
        self.notes: list[Note] = []
        self._segment: Segment | None = None

    @property
    def end(self) -> int:
        """Position behind its last token."""
        return self.start + len(self.tokens)

    @property
    def is_computed(self) -> bool:
        """True if K/V of all of its tokens are there."""
        return self.num_computed == len(self.tokens)

    @property
    def is_free_leaf(self) -> bool:
        """True if nobody holds it and nothing hangs on it: it may be evicted, and it may grow."""
        return not self.num_locks and not self.children and self.parent is not None

    @property
    def is_alone(self) -> bool:
        """True if one sequence holds it and nothing hangs on it: nobody else notices when it grows."""
        return self.num_locks == 1 and not self.children and self.parent is not None

    @property
    def pinned_end(self) -> int:
        """Position up to which a pinned prefix covers it."""
        return max([note.end for note in self.notes if note.is_pinned], default=self.start)

    @property
    def segment(self) -> Segment:
        """What the attention plan reads of it; made once and kept until something changes."""
        if self._segment is None:
            self._segment = Segment(self.key, self.pages, self.start, len(self.tokens), self.num_computed)
        return self._segment

    def mark_computed(self, num_tokens: int) -> None:
        """K/V of its first tokens are there."""
        if num_tokens > self.num_computed:
            self.num_computed = num_tokens
            self._segment = None

    def assign(self, start: int, tokens: Tokens, pages: Pages, num_computed: int) -> None:
        """Change what it holds."""
        self.start = start
        self.tokens = tokens
        self.pages = pages
        self.num_computed = num_computed
        self._segment = None


def last_page(pages: Pages) -> int:
    """The last one; 0 if there is none."""
    return int(pages[-1]) if len(pages) else 0
