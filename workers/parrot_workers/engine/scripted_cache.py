"""What a scripted engine remembers of prompts, as a KV cache would: prefixes in pages, some of them pinned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

from parrot_workers.engine.base import GenerationRequest, PrefillRequest

__all__ = ["ScriptedCache"]

_Key: TypeAlias = tuple[str, str]
"""Salt and hash of a prefix."""


class _Prefix(NamedTuple):
    """A remembered prefix: where it ends in its prompt, and the pages between its parent's end and there."""

    end: int
    num_pages: int


class ScriptedCache:
    """Remembers the prefixes of prompts by their hashes, as many as fit; the last used stay, pinned ones longest.

    Args:
        num_pages: Pages in all; 0 remembers nothing.
        page_size: Characters in a page.
    """

    def __init__(self, *, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.num_pinned_pages = 0
        self.num_unpinned_pages = 0
        self.num_evicted_pages = 0
        self._names: frozenset[str] = frozenset()
        # In order of use. A prompt uses its prefixes longest first, so that children go before their parents.
        self._unpinned: dict[_Key, _Prefix] = {}
        self._pinned: dict[_Key, _Prefix] = {}

    @property
    def num_cached_pages(self) -> int:
        return self.num_pinned_pages + self.num_unpinned_pages

    def pin(self, names: Iterable[str]) -> None:
        """Keep these prefixes longest: the complete set."""
        self._names = frozenset(names)
        prefixes = {**self._unpinned, **self._pinned}
        self._unpinned, self._pinned = {}, {}
        self.num_unpinned_pages = self.num_pinned_pages = 0
        for key, prefix in prefixes.items():
            self._put(key, prefix)

    def add(self, request: GenerationRequest | PrefillRequest) -> int:
        """Remember a prompt. Returns: how many of its leading characters were remembered, and not the last one."""
        num_known = 0
        for name, prefix in self._longest_first(request):
            key = (request.salt, name)
            if self._take(key) is not None:
                num_known = max(num_known, prefix.end)
            self._put(key, prefix)
        while self.num_cached_pages > self.num_pages:
            self._evict()
        return min(num_known, max(len(request.prompt) - 1, 0))

    def has_room(self, request: PrefillRequest) -> bool:
        """True if what is not remembered of a prompt fits, and nothing pinned has to go for it."""
        num_pages = 0
        for name, prefix in self._longest_first(request):
            key = (request.salt, name)
            if key not in self._pinned:
                num_pages += prefix.num_pages
        return num_pages + self.num_pinned_pages <= self.num_pages

    def check_integrity(self) -> None:
        """Prove that pages are counted right.

        Raises:
            AssertionError: They are not.
        """
        for prefixes, num_pages in ((self._pinned, self.num_pinned_pages), (self._unpinned, self.num_unpinned_pages)):
            assert sum(prefix.num_pages for prefix in prefixes.values()) == num_pages, "pages are counted wrong"
        assert self.num_cached_pages <= self.num_pages, "more is remembered than fits"

    def _longest_first(self, request: GenerationRequest | PrefillRequest) -> Iterator[tuple[str, _Prefix]]:
        begin_ends = list(zip((0, *request.prefix_ends), request.prefix_ends, strict=False))
        for name, (begin, end) in reversed(list(zip(request.prefix_hashes, begin_ends, strict=False))):
            yield name, _Prefix(end, -(-(end - begin) // self.page_size))

    def _put(self, key: _Key, prefix: _Prefix) -> None:
        if key[1] in self._names:
            self._pinned[key] = prefix
            self.num_pinned_pages += prefix.num_pages
        else:
            self._unpinned[key] = prefix
            self.num_unpinned_pages += prefix.num_pages

    def _take(self, key: _Key) -> _Prefix | None:
        if (prefix := self._pinned.pop(key, None)) is not None:
            self.num_pinned_pages -= prefix.num_pages
        elif (prefix := self._unpinned.pop(key, None)) is not None:
            self.num_unpinned_pages -= prefix.num_pages
        return prefix

    def _evict(self) -> None:
        """Forget what was used longest ago, first of what is not pinned."""
        evicted = self._take(next(iter(self._unpinned or self._pinned)))
        assert evicted is not None
        self.num_evicted_pages += evicted.num_pages
