"""Shapes that CUDA graphs are captured for, and plans padded to them. numpy only.

A graph replays the same kernels over the same buffers, so the number of rows and of entries in each level is fixed when
it is captured. A decode step takes the next larger shape: rows that are missing are padding, and so are entries.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np

from parrot_workers.attention.level import Level
from parrot_workers.attention.plan import AttentionPlan

__all__ = ["NODE_BUCKETS", "ROW_BUCKETS", "GraphShape", "PaddedPlan", "find_shape", "round_up_rows"]

ROW_BUCKETS: Final = (1, 2, 4, *range(8, 257, 8), *range(288, 513, 32))
"""Rows of a graph. A step has at most an eighth more rows than it needs, from 64 rows on."""

NODE_BUCKETS: Final = (2, 8, 64)
"""Entries of an upper level. Few sizes, because each is another graph; an empty entry costs next to nothing."""


class GraphShape(NamedTuple):
    """What is fixed in a graph.

    Attributes:
        num_rows: Rows, and as many entries in the last level.
        num_nodes: Entries of each upper level, from the root outwards.
    """

    num_rows: int
    num_nodes: tuple[int, ...] = ()


def find_shape(plan: AttentionPlan, *, max_rows: int, page_size: int) -> GraphShape | None:
    """Find the smallest shape that a plan fits into.

    Args:
        plan: Any plan.
        max_rows: Largest bucket of rows that may be used.
        page_size: Tokens in a page of the pool.

    Returns:
        None if the step is no decode step (some sequence has several new tokens), has too many rows or too many shared
        nodes, or reads the pool by another page size.
    """
    if plan.num_rows != plan.levels[-1].num_entries or any(level.page_size != page_size for level in plan.levels):
        return None
    num_rows = _next_bucket(plan.num_rows, ROW_BUCKETS)
    if num_rows is None or num_rows > max_rows:
        return None
    upper = plan.levels[:-1]
    # All upper levels are as large as the largest of them, so that the number of graphs stays small.
    num_needed = max((_num_needed(level, num_rows - plan.num_rows) for level in upper), default=0)
    num_nodes = _next_bucket(num_needed, (0, *NODE_BUCKETS))
    return None if num_nodes is None else GraphShape(num_rows, (num_nodes,) * len(upper))


def round_up_rows(num_rows: int) -> int:
    """Rows of the smallest graph for so many, or of the largest graph there is."""
    return _next_bucket(num_rows, ROW_BUCKETS) or ROW_BUCKETS[-1]


def _next_bucket(num: int, buckets: tuple[int, ...]) -> int | None:
    index = bisect_left(buckets, num)
    return buckets[index] if index < len(buckets) else None


def _num_needed(level: Level, num_padding: int) -> int:
    """Entries of an upper level, with one for the padding rows unless its last one is empty and can take them."""
    return level.num_entries + (num_padding > 0 and not _ends_empty(level))


def _ends_empty(level: Level) -> bool:
    return bool(level.kv_indptr[-1] == level.kv_indptr[-2])


@dataclass(frozen=True)
class PaddedPlan:
    """A plan with padding: the rows of `plan` come first, and their results are what they would be without it.

    Padding rows read one token of the dummy page, so that what is computed for them is finite, and nothing in the upper
    levels.
    """

    plan: AttentionPlan
    shape: GraphShape

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """As `AttentionPlan.levels`."""
        *upper, own = self.plan.levels
        num_rows, num_nodes = self.shape
        padded = [_pad_upper(level, num_rows, num) for level, num in zip(upper, num_nodes, strict=True)]
        return (*padded, _pad_own(own, num_rows))

    @cached_property
    def flat(self) -> Level:
        """As `AttentionPlan.flat`."""
        return _pad_own(self.plan.flat, self.shape.num_rows)


def _pad_own(level: Level, num_rows: int) -> Level:
    """One row for each entry, also for those that are added."""
    num_added = num_rows - level.num_entries
    added_pages = level.kv_indptr[-1] + np.arange(1, num_added + 1, dtype=np.int32)
    return Level(
        page_size=level.page_size,
        qo_indptr=np.arange(num_rows + 1, dtype=np.int32),
        kv_indptr=np.concatenate([level.kv_indptr, added_pages]),
        kv_indices=np.concatenate([level.kv_indices, np.zeros(num_added, np.int32)]),
        kv_last_page_len=np.concatenate([level.kv_last_page_len, np.ones(num_added, np.int32)]),
    )


def _pad_upper(level: Level, num_rows: int, num_entries: int) -> Level:
    """Add empty entries. The first of them takes the added rows, unless the level ends with an empty one, which can."""
    num_added = num_entries - level.num_entries
    qo_indptr = np.concatenate([level.qo_indptr, np.full(num_added, num_rows, np.int32)])
    if _ends_empty(level):
        qo_indptr[level.num_entries] = num_rows
    return Level(
        page_size=level.page_size,
        qo_indptr=qo_indptr,
        kv_indptr=np.concatenate([level.kv_indptr, np.full(num_added, level.kv_indptr[-1], np.int32)]),
        kv_indices=level.kv_indices,
        kv_last_page_len=np.concatenate([level.kv_last_page_len, np.zeros(num_added, np.int32)]),
    )
