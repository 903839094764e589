"""What would lie in the pool: per slot the token that was written there, with all tokens before it."""

from __future__ import annotations

from collections.abc import Iterable

from parrot_workers.kv_cache import CacheManager, PageCopy, SequenceCache

from tests.kv_cache.trees import Tokens, path

Content = tuple[str, Tokens]
"""Salt, and all tokens up to and with the one whose K/V lie there: K/V of a token depend on every token before it."""


class Memory:
    """A pool that can be asked what it holds. Copies wait until the next step, as in an engine."""

    def __init__(self, manager: CacheManager) -> None:
        self._manager = manager
        self._page_size = manager.page_size
        self._slots: dict[tuple[int, int], Content] = {}

    def copy(self, copies: Iterable[PageCopy]) -> None:
        """Copy whole pages, one after another."""
        for source, target, _ in copies:
            contents = [self._slots.get((source, offset)) for offset in range(self._page_size)]
            for offset, content in enumerate(contents):
                if content is not None:
                    self._slots[target, offset] = content

    def slots(self, cache: SequenceCache) -> list[tuple[int, int]]:
        """Page and offset of each token that a sequence has room for."""
        segments = self._manager.segments(cache)
        return [
            (page, offset) for each in segments for page in each.pages.tolist() for offset in range(self._page_size)
        ]

    def write(self, cache: SequenceCache, salt: str, tokens: Tokens, begin: int, end: int) -> None:
        """Compute the tokens [begin, end) of a sequence."""
        slots = self.slots(cache)
        for position in range(begin, end):
            self._slots[slots[position]] = (salt, tokens[: position + 1])

    def num_right(self, cache: SequenceCache, salt: str, tokens: Tokens) -> int:
        """Leading tokens of a sequence that lie where it would read them."""
        num = 0
        for slot, position in zip(self.slots(cache), range(len(tokens)), strict=False):
            if self._slots.get(slot) != (salt, tokens[: position + 1]):
                break
            num += 1
        return num

    def check_tree(self) -> None:
        """Prove that every token that the tree takes for computed lies where the tree says."""
        for node in self._manager._tree.nodes():
            tokens = path(node)
            for index in range(node.num_computed):
                slot = (int(node.pages[index // self._page_size]), index % self._page_size)
                assert self._slots.get(slot) == (node.salt, tokens[: node.start + index + 1])
