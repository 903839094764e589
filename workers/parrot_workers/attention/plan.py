"""The plan of a step: which rows read which pages, level by level. numpy only, for every device and backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from parrot_workers.attention.cost_model import CostModel
from parrot_workers.attention.level import Entry, Level, Piece, make_level
from parrot_workers.attention.shared_nodes import SharedNode, choose_levels, find_nodes

if TYPE_CHECKING:
    from parrot_workers.kv_cache import Segment

__all__ = ["AttentionPlan", "Level", "PlanStatistics", "SequenceSpan", "build_plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceSpan:
    """What one sequence computes in this step: the tokens [begin, end) of its path.

    Attributes:
        segments: The whole path, root first, its own segment last. Pages must reach to `end`; segments may go further.
        begin: Position of the first new token. The K/V of everything before it is computed, or is written in this very
            step by another sequence.
        end: Position after the last new token.
    """

    segments: Sequence[Segment]
    begin: int
    end: int


class PlanStatistics(NamedTuple):
    """How much is read.

    Attributes:
        num_levels: Levels above the last one.
        num_read_tokens: KV tokens that the levels read, each entry counted once.
        num_flat_tokens: KV tokens that would be read without levels.
    """

    num_levels: int
    num_read_tokens: int
    num_flat_tokens: int


@dataclass(frozen=True, kw_only=True)
class AttentionPlan:
    """Index arrays of one step. Rows are the new tokens of all sequences, packed in depth-first order of their paths.

    Attributes:
        order: Index of the span that comes at each place of the packed order.
        positions: Position of each row in its sequence, shape [num_rows], int64.
        slots: Where each row's K/V are written, shape [num_rows], int64.
        levels: From the root outwards. The last has one entry per sequence in packed order, and is causal with the last
            row at the last key: row r of an entry with n rows and m tokens sees its first m - n + r + 1. The others are
            not masked. Each row's result is the merge, by log-sum-exp, of what it reads in all levels. The entries of a
            level cover all rows; those of rows that read nothing there are empty.
    """

    order: Sequence[int]
    positions: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]
    levels: tuple[Level, ...]
    _spans: Sequence[SequenceSpan] = field(repr=False)  # in packed order
    _page_size: int

    @property
    def num_rows(self) -> int:
        """New tokens of all sequences."""
        return len(self.positions)

    @property
    def last_rows(self) -> npt.NDArray[np.int32]:
        """The row of each sequence's last new token, in packed order, shape [num_sequences], int32."""
        return self.levels[-1].qo_indptr[1:] - 1

    @cached_property
    def max_len(self) -> int:
        """Tokens of the longest sequence, up to its last new one."""
        return max(span.end for span in self._spans)

    @cached_property
    def flat(self) -> Level:
        """Each sequence's whole path in one causal entry."""
        if len(self.levels) == 1:
            return self.levels[0]
        return make_level([_own_entry(span, 0) for span in self._spans], page_size=self._page_size)

    def levels_for(self, window: int | None) -> tuple[Level, ...]:
        """The levels that a layer reads: all of them, unless some sequence is longer than the layer's window.

        A window is counted from the end of a sequence. An upper level does not know where that is, so it cannot be cut.

        Args:
            window: Tokens that a query sees, itself included.
        """
        if window is None or self.max_len <= window:
            return self.levels
        return (self.flat,)

    @cached_property
    def statistics(self) -> PlanStatistics:
        """How much is read, and how much it would be without levels."""
        num_read = sum(int(level.kv_lens.sum()) for level in self.levels)
        return PlanStatistics(len(self.levels) - 1, num_read, sum(span.end for span in self._spans))


def build_plan(spans: Sequence[SequenceSpan], *, page_size: int, cost: CostModel) -> AttentionPlan:
    """Pack the sequences of a step and lay out what they read.

    A segment can be a level for a sequence only if no new token of it lies inside. From the first segment that holds
    new tokens on, everything is the sequence's own entry in the last level. So a sequence that computes a prefix has it
    in its own entry, while its siblings in the same step may have it as a level.

    Args:
        spans: At least one; each with at least one new token.
        page_size: Tokens in a page of the pool.
        cost: Which shared segments become levels.
    """
    paths = [_readable(span) for span in spans]
    keys = [tuple([segment.key for segment in path]) for path in paths]
    order = sorted(range(len(spans)), key=lambda index: (keys[index], spans[index].end))  # alike lengths side by side
    spans = [spans[index] for index in order]
    row_indptr = np.cumsum([0] + [span.end - span.begin for span in spans]).tolist()
    nodes = find_nodes([paths[index] for index in order], row_indptr)
    num_levels = choose_levels(nodes, cost)
    levels = [_upper_level(nodes, level, row_indptr[-1], row_indptr, page_size) for level in range(num_levels)]
    num_covered = _num_covered(nodes, len(spans))
    own_entries = [_own_entry(span, num) for span, num in zip(spans, num_covered, strict=True)]
    own = make_level(own_entries, page_size=page_size)
    positions, slots = _rows(spans, own)
    return AttentionPlan(
        order=order, positions=positions, slots=slots, levels=(*levels, own), _spans=spans, _page_size=page_size
    )


def _readable(span: SequenceSpan) -> list[Segment]:
    """The leading segments that others may hold as well, and that have no new tokens of this sequence inside."""
    path = []
    for segment in span.segments:
        if segment.key < 0 or segment.start + segment.num_tokens > span.begin:
            break
        path.append(segment)
    return path


def _num_covered(nodes: Sequence[SharedNode], num_sequences: int) -> list[int]:
    """How many leading segments of each sequence are read in upper levels."""
    covered = [0] * num_sequences
    for node in nodes:  # descendants come later
        if node.is_level:
            covered[node.first : node.last] = [node.depth + 1] * (node.last - node.first)
    return covered


def _upper_level(
    nodes: Sequence[SharedNode], level: int, num_rows: int, row_indptr: Sequence[int], page_size: int
) -> Level:
    entries, row = [], 0
    for node in nodes:
        if not node.is_level or node.level != level:
            continue
        if gap := row_indptr[node.first] - row:
            entries.append(Entry(gap, ()))
        entries.append(Entry(node.num_rows, _with_folded(node)))
        row = row_indptr[node.last]
    if row < num_rows:
        entries.append(Entry(num_rows - row, ()))
    return make_level(entries, page_size=page_size)


def _with_folded(node: SharedNode) -> list[Piece]:
    """The node's tokens, after those of the ancestors that are folded into it."""
    pieces = [Piece(node.segment.pages, node.segment.num_tokens)]
    while (parent := node.parent) is not None and not parent.is_level:
        pieces.append(Piece(parent.segment.pages, parent.segment.num_tokens))
        node = parent
    return pieces[::-1]


def _own_entry(span: SequenceSpan, num_covered: int) -> Entry:
    """What the sequence reads by itself: its path after the covered segments, up to its last new token."""
    pieces = []
    segments = span.segments
    for segment in segments[num_covered:-1]:
        num_tokens = min(segment.num_tokens, span.end - segment.start)
        if num_tokens > 0:
            pieces.append(Piece(segment.pages, num_tokens))
    last = segments[-1]
    if last.start < span.end:  # its pages may hold more tokens than it was told of
        pieces.append(Piece(last.pages, span.end - last.start))
    return Entry(span.end - span.begin, pieces)


def _rows(spans: Sequence[SequenceSpan], own: Level) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions and slots of the new tokens, from the entries that end with them."""
    num_rows = np.diff(own.qo_indptr)
    ends = np.array([span.end for span in spans])
    # positions:  0 ... first token of the entry ... begin ... end
    #                   |<-------------- kv_len ------------>|
    steps = np.arange(own.qo_indptr[-1]) - np.repeat(own.qo_indptr[1:], num_rows)  # -num_rows ... -1 in each entry
    offsets = np.repeat(own.kv_lens, num_rows) + steps
    pages = own.kv_indices[np.repeat(own.kv_indptr[:-1], num_rows) + offsets // own.page_size].astype(np.int64)
    return np.repeat(ends, num_rows) + steps, pages * own.page_size + offsets % own.page_size
