"""Which prefixes the workers probably hold: pure.

Nobody tells: what is assigned somewhere will be there, and what a worker has not used for longest goes first when its
cache is full. A wrong guess costs a prefill, and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from parrot_mq.coordinator.dispatch.job import Prefix

__all__ = ["Residents"]


@dataclass(slots=True)
class _Cache:
    """What one worker holds.

    Attributes:
        capacity: Most tokens.
        num_tokens: Of each prefix, tokens that its parent does not have; the least recently used first. A prefix is
            always used after those that continue it, so it leaves after them.
        total: Sum of these.
    """

    capacity: int
    num_tokens: OrderedDict[Prefix, int] = field(default_factory=OrderedDict)
    total: int = 0


class Residents:
    """For each worker its prefixes, and for each prefix its workers.

    Everything costs O(prefixes of a prompt), and what is evicted, which was held before.
    """

    def __init__(self) -> None:
        self._caches: dict[str, _Cache] = {}
        self._holders: dict[Prefix, dict[str, None]] = {}

    def set_capacity(self, worker: str, capacity: int) -> None:
        """A worker has room for so many tokens; 0 if it keeps no prefixes."""
        cache = self._caches.setdefault(worker, _Cache(capacity))
        cache.capacity = capacity
        self._shrink(worker, capacity)

    def forget(self, worker: str) -> None:
        """A worker is gone, or began anew."""
        self._shrink(worker, 0)
        self._caches.pop(worker, None)

    def hold(self, worker: str, prefixes: Sequence[Prefix], ends: Sequence[int]) -> None:
        """A worker uses these prefixes of one prompt.

        Args:
            worker: Which one; ignored if it keeps no prefixes.
            prefixes: The shortest first.
            ends: Tokens of the prompt up to the end of each.
        """
        cache = self._caches.get(worker)
        if cache is None or not cache.capacity:
            return
        for index in reversed(range(len(prefixes))):
            prefix = prefixes[index]
            if prefix not in cache.num_tokens:
                num_new = ends[index] - (ends[index - 1] if index else 0)
                cache.num_tokens[prefix] = num_new
                cache.total += num_new
                self._holders.setdefault(prefix, {})[worker] = None
            cache.num_tokens.move_to_end(prefix)
        self._shrink(worker, cache.capacity)

    def evict(self, worker: str, num_tokens: int, pinned: Collection[str] = ()) -> None:
        """A worker has given up tokens for something else: those not pinned (by hash) first."""
        cache = self._caches.get(worker)
        if cache is None:
            return
        for is_pinned_too in (False, True):
            for prefix in list(cache.num_tokens) if num_tokens > 0 else ():
                if num_tokens <= 0:
                    return
                if is_pinned_too or prefix.hash not in pinned:
                    num_tokens -= cache.num_tokens[prefix]
                    self._drop(worker, cache, prefix)

    def find(self, prefixes: Sequence[Prefix], ends: Sequence[int]) -> dict[str, int]:
        """Tokens of a prompt that each worker holds, those that hold most first."""
        held: dict[str, int] = {}
        for index in reversed(range(len(prefixes))):
            for worker in self._holders.get(prefixes[index], ()):
                if worker not in held:
                    held[worker] = ends[index]
        return held

    def has(self, worker: str, prefix: Prefix) -> bool:
        """Whether a worker probably holds a prefix."""
        return worker in self._holders.get(prefix, ())

    def is_held(self, prefix: Prefix) -> bool:
        """Whether any worker probably holds a prefix."""
        return prefix in self._holders

    def _shrink(self, worker: str, capacity: int) -> None:
        cache = self._caches.get(worker)
        while cache is not None and cache.num_tokens and cache.total > capacity:
            self._drop(worker, cache, next(iter(cache.num_tokens)))

    def _drop(self, worker: str, cache: _Cache, prefix: Prefix) -> None:
        cache.total -= cache.num_tokens.pop(prefix)
        holders = self._holders[prefix]
        del holders[worker]
        if not holders:
            del self._holders[prefix]

    def check_integrity(self) -> None:
        """Assert that both indices tell the same, and that nobody holds more than it can."""
        by_worker = {(worker, prefix) for worker, cache in self._caches.items() for prefix in cache.num_tokens}
        by_prefix = {(worker, prefix) for prefix, workers in self._holders.items() for worker in workers}
        assert by_worker == by_prefix, by_worker ^ by_prefix
        assert all(self._holders.values())
        for cache in self._caches.values():
            assert cache.total == sum(cache.num_tokens.values())
            assert cache.total <= cache.capacity or not cache.num_tokens
