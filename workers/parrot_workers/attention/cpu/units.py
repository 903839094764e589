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
    return _rounds([_cut(stretch, level.page_size, sizes) for stretch in _stretches(level)], level.page_size)


def _cut_own(own: Level, slots: Slots, sizes: CutSizes) -> list[Round]:
    parts: list[list[Unit | Causal | Band]] = []
    for stretch in _stretches(own):
        if stretch.num_rows == 1:
            parts.append([*_cut(stretch, own.page_size, sizes)])
        else:
            parts.append(_cut_causal(stretch, own.page_size, slots, sizes))
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
    for stretch in _stretches(flat):
        tokens = _by_token(stretch, flat.page_size)
        if stretch.num_rows == 1:
            seen = tokens._replace(pages=tokens.pages[-window:], num_tokens=min(tokens.num_tokens, window))
            parts.append([*_cut(seen, 1, sizes)])
        elif stretch.num_tokens <= window:
            parts.append(_cut_causal(tokens, 1, slots, sizes))
        else:
            parts += [[band] for band in _bands(tokens, window)]
    return _rounds(parts, 1)


def _stretches(level: Level) -> Iterator[Unit]:
    """What each entry reads, as one unit; nothing of empty entries."""
    rows, indptr = level.qo_indptr.tolist(), level.kv_indptr.tolist()
    # How many pages before each one do not follow on their neighbour: so no entry needs numpy of its own to be seen.
    num_breaks = np.cumsum(np.diff(level.kv_indices, prepend=-1) != 1).tolist()
    for index, num_tokens in enumerate(level.kv_lens.tolist()):
        if num_tokens:
            begin, end = indptr[index], indptr[index + 1]
            is_run = num_breaks[begin] == num_breaks[end - 1]
            yield Unit(rows[index], rows[index + 1] - rows[index], level.kv_indices[begin:end], num_tokens, is_run)


def _by_token(unit: Unit, page_size: int) -> Unit:
    """The same with pages of one token."""
    slots = unit.pages[:, None] * page_size + np.arange(page_size, dtype=np.int32)
    return unit._replace(pages=slots.reshape(-1)[: unit.num_tokens].astype(np.int32))


def _cut_causal(stretch: Unit, page_size: int, slots: Slots, sizes: CutSizes) -> list[Unit | Causal | Band]:
    """New tokens among themselves, and, without any mask, over what was there before them."""
    row, num_rows, pages, num_tokens, _ = stretch
    num_past = num_tokens - num_rows
    past = stretch._replace(pages=pages[: -(-num_past // page_size)], num_tokens=num_past)
    return [Causal(row, slots[row : row + num_rows]), *_cut(past, page_size, sizes)]


def _cut(stretch: Unit, page_size: int, sizes: CutSizes) -> list[Unit]:
    """What lies scattered comes first, so that it falls into one round with what is scattered of other sequences."""
    row, num_rows, pages, num_tokens, is_run = stretch
    if is_run or not num_tokens:
        return [stretch] if num_tokens else []
    num_unused = len(pages) * page_size - num_tokens
    return [
        Unit(row, num_rows, part, len(part) * page_size - (num_unused if part[-1] == pages[-1] else 0), is_whole_run)
        for part, is_whole_run in _split(pages, -(-sizes.min_run // page_size), max(1, sizes.max_gathered // page_size))
    ]


def _split(pages: Int32Array, min_run: int, max_gathered: int) -> list[tuple[Int32Array, bool]]:
    """Pages that follow one another, where there are enough of them, and the rest in pieces; sizes in pages."""
    runs = np.split(pages, np.flatnonzero(np.diff(pages) != 1) + 1) if len(pages) >= min_run else [pages]
    long = [(run, True) for run in runs if len(run) >= min_run]
    rest = np.concatenate([pages[:0], *(run for run in runs if len(run) < min_run)]) if long else pages
    return [(rest[begin : begin + max_gathered], False) for begin in range(0, len(rest), max_gathered)] + long


def _bands(stretch: Unit, window: int) -> Iterator[Band]:
    row, num_rows, pages, num_tokens, _ = stretch
    tokens, begin = pages.astype(np.int64), num_tokens - num_rows
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
