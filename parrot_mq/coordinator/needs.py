"""Which prefixes the unfinished generations of a model need, and how many need each: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice, takewhile

__all__ = ["MAX_PREFIXES", "PrefixNeeds"]

MAX_PREFIXES = 256
"""Of the prefixes of one generation these many, the shortest, are counted."""


class PrefixNeeds:
    """Counts, for each prefix hash, the generations that begin with it.

    Setting and removing cost O(prefixes of the generation); the most needed are found in O(how many are wanted), and
    not anew before something has changed. So this may hold the whole backlog.
    """

    def __init__(self) -> None:
        self._prefixes: dict[str, tuple[str, ...]] = {}
        self._counts: dict[str, int] = {}
        self._by_count: dict[int, dict[str, None]] = {}  # no set is empty; an older one of equals comes first
        self._found: tuple[int, tuple[str, ...]] | None = (
            None  # the last answer of `most_needed`, and to which question
        )

    def __len__(self) -> int:
        return len(self._prefixes)

    @property
    def num_prefixes(self) -> int:
        """How many different prefixes are needed."""
        return len(self._counts)

    def set(self, key: str, prefixes: tuple[str, ...]) -> None:
        """A generation begins with these prefixes, the shortest first; they replace what was said of it before."""
        before, prefixes = self._prefixes.get(key, ()), prefixes[:MAX_PREFIXES]
        self._prefixes[key] = prefixes
        num_same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, prefixes, strict=False)))
        self._change(prefixes[num_same:], +1)
        self._change(before[num_same:], -1)

    def remove(self, key: str) -> None:
        """A generation is finished, or nobody wants it any more."""
        self._change(self._prefixes.pop(key, ()), -1)

    def most_needed(self, num_wanted: int) -> tuple[str, ...]:
        """The hashes that most generations need, at most `num_wanted`."""
        if self._found is None or self._found[0] != num_wanted:
            self._found = num_wanted, tuple(islice(self._in_order(), num_wanted))
        return self._found[1]

    def _in_order(self) -> Iterator[str]:
        # There are no more different counts than the square root of twice the sum of all.
        for count in sorted(self._by_count, reverse=True):
            yield from self._by_count[count]

    def _change(self, prefixes: tuple[str, ...], by: int) -> None:
        for prefix in prefixes:
            self._found = None
            count = self._counts.get(prefix, 0)
            self._move(prefix, count, count + by)

    def _move(self, prefix: str, before: int, after: int) -> None:
        if before:
            equals = self._by_count[before]
            del equals[prefix]
            if not equals:
                del self._by_count[before]
        if after:
            self._counts[prefix] = after
            self._by_count.setdefault(after, {})[prefix] = None
        else:
            del self._counts[prefix]

    def check_integrity(self) -> None:
        """Assert that the counts are those of the generations."""
        counted = Counter(prefix for prefixes in self._prefixes.values() for prefix in prefixes)
        assert counted == self._counts, counted - Counter(self._counts)
        listed = {prefix: count for count, equals in self._by_count.items() for prefix in equals}
        assert listed == self._counts
        assert all(self._by_count.values())
