"""Which tasks go together, and where: pure, no clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterator

from parrot_mq.coordinator.ready import ReadyGeneration

__all__ = ["FairQueue", "PrefixQueue"]


class PrefixQueue:
    """Ready generations in order of arrival, taken out in groups that share a prefix.

    Every operation costs O(number of segments of a prompt), at any length of the queue. The oldest generation is always
    in the next batch, so nothing starves.

    Source: Parrot (OSDI'24) section 5.3, with hashes over content at every placeholder boundary.
    """

    def __init__(self) -> None:
        self._by_key: dict[str, ReadyGeneration] = {}
        self._by_prefix: dict[str, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[ReadyGeneration]:
        return iter(self._by_key.values())

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def add(self, generation: ReadyGeneration) -> None:
        """Append; one that is queued already is left where it is."""
        if generation.key in self._by_key:
            return
        self._by_key[generation.key] = generation
        for prefix in generation.prefix_hashes:
            self._by_prefix.setdefault(prefix, {})[generation.key] = None

    def remove(self, key: str) -> ReadyGeneration | None:
        """Take one out; None if it is not queued."""
        generation = self._by_key.pop(key, None)
        if generation is None:
            return None
        for prefix in generation.prefix_hashes:
            sharers = self._by_prefix.get(prefix)
            if sharers is None:
                continue
            sharers.pop(key, None)
            if not sharers:
                del self._by_prefix[prefix]
        return generation

    def take(self, num_wanted: int) -> list[ReadyGeneration]:
        """Take out up to `num_wanted`: the oldest, those that share most with it, then the next oldest, and so on."""
        batch: list[ReadyGeneration] = []
        while self._by_key and len(batch) < num_wanted:
            oldest = next(iter(self._by_key))
            batch.extend(self._take_group(oldest, num_wanted - len(batch)))
        return batch

    def _take_group(self, key: str, num_wanted: int) -> Iterator[ReadyGeneration]:
        prefixes = self._by_key[key].prefix_hashes
        yield self._pop(key)
        num_wanted -= 1
        for prefix in reversed(prefixes):
            while num_wanted and (sharers := self._by_prefix.get(prefix)):
                yield self._pop(next(iter(sharers)))
                num_wanted -= 1

    def _pop(self, key: str) -> ReadyGeneration:
        generation = self.remove(key)
        assert generation is not None, f"{key} is listed under a prefix but not queued"
        return generation

    def check_integrity(self) -> None:
        """Assert that both indices tell the same."""
        listed = {(p, k) for p, keys in self._by_prefix.items() for k in keys}
        queued = {(p, g.key) for g in self._by_key.values() for p in g.prefix_hashes}
        assert listed == queued, listed ^ queued


class FairQueue:
    """Ready generations of all tenants: who has work has an equal share of every batch, however much others have.

    The tenants take turns; within a tenant the order is that of a `PrefixQueue`. With one tenant it is just that.
    """

    def __init__(self) -> None:
        self._queues: dict[str, PrefixQueue] = {}  # by tenant, in the order of their turns; none is empty

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __contains__(self, key: str) -> bool:
        queue = self._queues.get(_tenant_of(key))
        return queue is not None and key in queue

    def add(self, generation: ReadyGeneration) -> None:
        """Append; one that is queued already is left where it is."""
        self._queues.setdefault(generation.address.tenant, PrefixQueue()).add(generation)

    def remove(self, key: str) -> ReadyGeneration | None:
        """Take one out; None if it is not queued."""
        queue = self._queues.get(tenant := _tenant_of(key))
        if queue is None:
            return None
        generation = queue.remove(key)
        if not queue:
            del self._queues[tenant]
        return generation

    def take(self, num_wanted: int) -> list[ReadyGeneration]:
        """Take out up to `num_wanted`: a share of the tenant whose turn it is, then of the next one, and so on."""
        batch: list[ReadyGeneration] = []
        while self._queues and len(batch) < num_wanted:
            num_share = -(-(num_wanted - len(batch)) // len(self._queues))
            tenant = next(iter(self._queues))
            queue = self._queues.pop(tenant)
            batch += queue.take(num_share)
            if queue:
                self._queues[tenant] = queue
        return batch

    def check_integrity(self) -> None:
        """Assert that every generation is in the queue of its tenant, and no queue is empty."""
        for tenant, queue in self._queues.items():
            assert queue, tenant
            assert {generation.address.tenant for generation in queue} == {tenant}
            queue.check_integrity()


def _tenant_of(key: str) -> str:
    """The first part of `tenant.session.variable`; names have no dots."""
    return key.partition(".")[0]
