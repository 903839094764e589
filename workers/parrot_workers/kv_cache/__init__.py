"""The paged KV cache: who holds which pages. `pool` holds the tensors; it is apart, since it alone needs torch."""

from parrot_workers.kv_cache.manager import CacheManager
from parrot_workers.kv_cache.node import OWN, Segment
from parrot_workers.kv_cache.sequence_cache import Acquired, PageCopy, SequenceCache
from parrot_workers.kv_cache.statistics import CacheStatistics

__all__ = ["OWN", "Acquired", "CacheManager", "CacheStatistics", "PageCopy", "Segment", "SequenceCache"]
