"""Names of prefixes: where each lies in the tree, and which of them unfinished tasks need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from parrot_workers.kv_cache.node import Node, Note

__all__ = ["PrefixNotes"]


class PrefixNotes:
    """Every named prefix that the tree holds, and every pinned one of which it holds some.

    A name may lie in several trees, one per salt; in each of them it names one prefix. Names that are not pinned are
    forgotten when some of their tokens are evicted, or when there are too many names: the oldest first.

    Args:
        max_notes: Names to remember; pinned ones are remembered in any case.
    """

    def __init__(self, max_notes: int) -> None:
        self._max_notes = max_notes
        self._notes: dict[tuple[str, str], Note] = {}  # (name, salt) -> note; the least recently noted first
        self._pinned: frozenset[str] = frozenset()
        self._by_name: dict[str, dict[str, Note]] = {}  # name -> salt -> note

    def note(self, name: str, end: int, node: Node) -> list[Node]:
        """Remember that `name` is the first `end` tokens of the path to `node`, which ends there or later.

        Returns:
            The nodes whose pins this may change.
        """
        while node.start >= end and node.parent is not None:
            node = node.parent
        changed = [node]
        former = self._notes.get((name, node.salt))
        if former is not None:
            changed.append(former.node)
            self._drop(former)
        note = Note(name, end, node, name in self._pinned)
        node.notes.append(note)
        self._notes[name, node.salt] = note
        self._by_name.setdefault(name, {})[node.salt] = note
        self._forget_some()
        return changed

    def pin(self, names: Iterable[str]) -> list[Node]:
        """Replace the set of pinned names.

        Returns:
            The nodes whose pins this may change.
        """
        before, self._pinned = self._pinned, frozenset(names)
        changed = [note for name in before ^ self._pinned for note in self._by_name.get(name, {}).values()]
        for note in changed:
            note.is_pinned = note.name in self._pinned
            if not note.is_pinned and not note.is_whole:
                self._drop(note)
        return [note.node for note in changed]

    def resident(self) -> list[str]:
        """Names whose K/V are all there, the most recently noted first."""
        return list(dict.fromkeys(note.name for note in reversed(self._notes.values()) if note.is_resident))

    def pinned_nodes(self) -> set[Node]:
        """All nodes that hold some of a pinned prefix."""
        nodes: set[Node] = set()
        for note in self:
            node: Node | None = note.node if note.is_pinned else None
            while node is not None and node not in nodes:
                nodes.add(node)
                node = node.parent
        return nodes

    def split(self, upper: Node, lower: Node) -> None:
        """`upper` has become the first part of `lower`."""
        for note in lower.notes:
            if note.end <= upper.end:
                note.node = upper
                upper.notes.append(note)
        lower.notes = [note for note in lower.notes if note.node is lower]

    def shrink(self, node: Node) -> None:
        """`node` has lost tokens from its end. Pinned notes stay with what is left of their prefixes."""
        for note in [note for note in node.notes if note.end > node.end]:
            if note.is_pinned:
                self._cut(note)
            else:
                self._drop(note)

    def _cut(self, note: Note) -> None:
        node, parent = note.node, note.node.parent
        assert parent is not None
        note.is_whole = False
        note.end = node.end
        if node.tokens:
            return
        if parent.parent is None:  # nothing is left
            self._drop(note)
            return
        node.notes.remove(note)
        note.node = parent
        parent.notes.append(note)

    def _drop(self, note: Note) -> None:
        salt = note.node.salt
        note.node.notes.remove(note)
        del self._notes[note.name, salt]
        del self._by_name[note.name][salt]
        if not self._by_name[note.name]:
            del self._by_name[note.name]

    def _forget_some(self) -> None:
        while len(self._notes) > self._max_notes:
            oldest = next((note for note in self if not note.is_pinned), None)
            if oldest is None:
                break
            self._drop(oldest)

    def __iter__(self) -> Iterator[Note]:
        return iter(self._notes.values())
