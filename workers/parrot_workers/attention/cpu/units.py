"""What the rows of a plan read, cut into units that suit a CPU. Pure: numpy only.

Attention over some keys and attention over others can be merged, so what an entry reads may be cut anywhere. Pages that
follow one another in memory are read in place. The others are gathered, and so is what is short: one call for many
gathered sequences costs less than a call for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from parrot_workers.attention.level import Int32Array, Level

__all__ = ["Band", "Causal", "CutSizes", "Round", "Slots", "Unit", "cut_levels", "cut_window"]

MAX_BAND_ROWS = 256
"""Rows that share a mask. With more of them, most of what they read would lie outside of the window of most rows."""

Slots: TypeAlias = npt.NDArray[np.int64]


class CutSizes(NamedTuple):
    """In tokens of one layer.

    Attributes:
        min_run: A stretch of consecutive pages with at least so many tokens becomes a unit of its own.
        max_gathered: What is left of an entry is cut into units of at most so many tokens.
    """

    min_run: int
    max_gathered: int


class Unit(NamedTuple):
    """Rows, and tokens that all of them see.

    Attributes:
        row: The first row.
        num_rows: How many.
        pages: What they read.
        num_tokens: Tokens on these pages; only the last page may be filled in part.
        is_run: Whether the pages follow one another, so that they can be read in place.
    """

    row: int
    num_rows: int
    pages: Int32Array
    num_tokens: int
    is_run: bool


class Causal(NamedTuple):
    """New tokens of a sequence; each sees those before it and itself.

    Attributes:
        row: The first row.
        slots: Where the K/V of each row are.
    """

    row: int
    slots: Slots


class Band(NamedTuple):
    """Rows at the end of a stretch of tokens, each of which sees the last `window` up to itself.

    Attributes:
        row: The first row.
        num_rows: How many.
        slots: The tokens; the last row is the last of them.
        window: Tokens that a row sees, itself included; the first rows may have fewer.
    """

    row: int
    num_rows: int
    slots: Slots
    window: int


@dataclass(slots=True)
class Round:
    """What to compute of which no two parts have a row in common.

    Attributes:
        page_size: Of the units.
        units: Rows over tokens.
        causals: New tokens among themselves.
        bands: Rows with a window.
    """

    page_size: int
    units: list[Unit] = field(default_factory=list)
    causals: list[Causal] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)

    def add(self, part: Unit | Causal | Band) -> None:
        """Add a part whose rows no other part has."""
        match part:
            case Unit():
                self.units.append(part)
            case Causal():
                self.causals.append(part)
            case Band():
                self.bands.append(part)


def cut_levels(levels: tuple[Level, ...], slots: Slots, *, sizes: CutSizes) -> list[Round]:
    """Cut a plan into rounds. The first has all rows, the others some; a row meets each of its tokens once.

    Args:
        levels: Of the plan.
        slots: Of the plan.
        sizes: How to cut.
    """
    *upper, own = levels
    return [*_cut_own(own, slots, sizes), *(each for level in upper for each in _cut_upper(level, sizes))]


def _cut_upper(level: Level, sizes: CutSizes) -> list[Round]:
    parts = [_cut(*entry, level.page_size, sizes) for entry in _entries(level)]
    return _rounds(parts, level.page_size)


def _cut_own(own: Level, slots: Slots, sizes: CutSizes) -> list[Round]:
    parts: list[list[Unit | Causal | Band]] = []
    for row, num_rows, pages, num_tokens in _entries(own):
        if num_rows == 1:
            parts.append([*_cut(row, 1, pages, num_tokens, own.page_size, sizes)])
        else:
            parts.append(_cut_causal(row, num_rows, pages, num_tokens, own.page_size, slots, sizes))
    return _rounds(parts, own.page_size)


def cut_window(flat: Level, slots: Slots, *, window: int, sizes: CutSizes) -> list[Round]:
    """Cut a plan for a layer with a window into rounds, as `cut_levels` does.

    Args:
        flat: Each sequence's whole path.
        slots: Of the plan.
        window: Tokens that a row sees, itself included.
        sizes: How to cut.
    """
    parts: list[list[Unit | Causal | Band]] = []
    for row, num_rows, pages, num_tokens in _entries(flat):
        tokens = _slots_of(pages, flat.page_size)[:num_tokens]
        if num_rows == 1:
            parts.append([*_cut(row, 1, tokens[-window:], min(num_tokens, window), 1, sizes)])
        elif num_tokens <= window:
            parts.append(_cut_causal(row, num_rows, tokens, num_tokens, 1, slots, sizes))
        else:
            parts += [[band] for band in _bands(row, num_rows, tokens.astype(np.int64), window)]
    return _rounds(parts, 1)


def _entries(level: Level) -> Iterator[tuple[int, int, Int32Array, int]]:
    """First row, number of rows, pages and tokens of each entry that reads something."""
    rows, indptr = level.qo_indptr.tolist(), level.kv_indptr.tolist()
    for index, num_tokens in enumerate(level.kv_lens.tolist()):
        if num_tokens:
            pages = level.kv_indices[indptr[index] : indptr[index + 1]]
            yield rows[index], rows[index + 1] - rows[index], pages, num_tokens


def _cut_causal(
    row: int, num_rows: int, pages: Int32Array, num_tokens: int, page_size: int, slots: Slots, sizes: CutSizes
) -> list[Unit | Causal | Band]:
    """New tokens among themselves, and, without any mask, over what was there before them."""
    num_past = num_tokens - num_rows
    past = _cut(row, num_rows, pages[: -(-num_past // page_size)], num_past, page_size, sizes)
    return [Causal(row, slots[row : row + num_rows]), *past]


def _cut(row: int, num_rows: int, pages: Int32Array, num_tokens: int, page_size: int, sizes: CutSizes) -> list[Unit]:
    """What lies scattered comes first, so that it falls into one round with what is scattered of other sequences."""
    num_unused = len(pages) * page_size - num_tokens
    last_page = pages[-1] if len(pages) else -1
    return [
        Unit(row, num_rows, part, len(part) * page_size - (num_unused if part[-1] == last_page else 0), is_run)
        for part, is_run in _split(pages, -(-sizes.min_run // page_size), max(1, sizes.max_gathered // page_size))
    ]


def _split(pages: Int32Array, min_run: int, max_gathered: int) -> list[tuple[Int32Array, bool]]:
    """Pages that follow one another, where there are enough of them, and the rest in pieces; sizes in pages."""
    breaks = np.flatnonzero(pages[1:] != pages[:-1] + 1) + 1
    if not len(breaks):
        return [(pages, True)] if len(pages) else []
    runs = np.split(pages, breaks) if len(pages) >= min_run else [pages]
    long = [(run, True) for run in runs if len(run) >= min_run]
    rest = np.concatenate([pages[:0], *(run for run in runs if len(run) < min_run)])
    return [(rest[begin : begin + max_gathered], False) for begin in range(0, len(rest), max_gathered)] + long


def _slots_of(pages: Int32Array, page_size: int) -> Int32Array:
    slots = pages[:, None] * page_size + np.arange(page_size, dtype=np.int32)
    return slots.reshape(-1).astype(np.int32)


def _bands(row: int, num_rows: int, tokens: Slots, window: int) -> Iterator[Band]:
    begin = len(tokens) - num_rows
    for first in range(0, num_rows, MAX_BAND_ROWS):
        last = min(first + MAX_BAND_ROWS, num_rows)
        # tokens:  0 ... begin + first - window + 1 ... begin + first ... begin + last ... len
        #                |<- window of the first row ->|<---- rows ---->|
        seen = tokens[max(0, begin + first - window + 1) : begin + last]
        yield Band(row + first, last - first, seen, window)


def _rounds(parts: list[list[Unit]] | list[list[Unit | Causal | Band]], page_size: int) -> list[Round]:
    """The n-th round has the n-th part of each entry."""
    rounds = [Round(page_size) for _ in range(max(map(len, parts), default=0))]
    for entry in parts:
        for each, part in zip(rounds, entry, strict=False):
            each.add(part)
    return rounds
