"""Which prefixes the unfinished generations of a model need most: pure."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice

__all__ = ["MAX_COUNTED", "MAX_PREFIXES", "PrefixNeeds"]

MAX_PREFIXES = 256
"""Of the prefixes of one generation these many, the shortest, are known."""

MAX_COUNTED = 8192
"""Prefixes that are looked at, those of the oldest generations: they run next, and looking at these many takes 2 ms."""


class PrefixNeeds:
    """Knows the prefixes of the unfinished generations, oldest first.

    There may be very many generations, and they change all the time, while somebody asks once a heartbeat. So a change
    costs next to nothing, and asking counts anew.
    """

    def __init__(self) -> None:
        self._prefixes: dict[str, tuple[str, ...]] = {}
        self._found: tuple[int, tuple[str, ...]] | None = None  # the last answer, and to which question

    def __len__(self) -> int:
        return len(self._prefixes)

    def set(self, key: str, prefixes: tuple[str, ...]) -> None:
        """A generation begins with these prefixes, the shortest first; they replace what was said of it before."""
        self._prefixes[key] = prefixes[:MAX_PREFIXES]
        self._found = None

    def remove(self, key: str) -> None:
        """A generation is finished, or nobody wants it any more."""
        if self._prefixes.pop(key, None):
            self._found = None

    def most_needed(self, num_wanted: int) -> tuple[str, ...]:
        """The hashes that most of the oldest generations need, at most `num_wanted`; the older one of equals first."""
        if self._found is None or self._found[0] != num_wanted:
            counts = Counter(islice(chain.from_iterable(self._prefixes.values()), MAX_COUNTED))
            self._found = num_wanted, tuple(prefix for prefix, _ in counts.most_common(num_wanted))
        return self._found[1]
