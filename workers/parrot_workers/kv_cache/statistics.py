"""How the cache stands."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CacheStatistics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStatistics:
    """How the pages are used, and what sharing has saved since the manager was made.

    Attributes:
        num_pages: All pages that can be used.
        num_free_pages: Nobody uses them and they hold nothing.
        num_cached_pages: In the tree, and nobody holds them: they can be evicted.
        num_locked_pages: In the tree, and held by running sequences.
        num_pinned_pages: Of the cached ones, pages of nodes that a pinned prefix covers: they are evicted last.
        num_evicted_pages: Evicted so far.
        num_lookup_tokens: Tokens of all sequences that were acquired.
        num_hit_tokens: Of these, tokens that were found in the tree, copied ones counted.
        num_copied_tokens: Of these, tokens whose K/V were copied to another page.
    """

    num_pages: int
    num_free_pages: int
    num_cached_pages: int
    num_locked_pages: int
    num_pinned_pages: int
    num_evicted_pages: int
    num_lookup_tokens: int
    num_hit_tokens: int
    num_copied_tokens: int
