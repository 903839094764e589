"""Keep entries of few rows apart from those of many. numpy only.

FlashInfer cuts the rows of all entries of a call into tiles of one size, 16, 64 or 128, by their average. In a step
that reads a prompt beside outputs, each sequence with one new token would fill a tile of 128 rows with one, and
multiply its keys with all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from parrot_workers.attention.level import Level

__all__ = ["MixedLevel", "split_short_entries"]


class MixedLevel(NamedTuple):
    """A level in two calls.

    Attributes:
        long: All rows; the short entries read nothing.
        short: The short entries alone, side by side.
        rows: Their rows in the level, shape [short.qo_indptr[-1]], int64.
    """

    long: Level
    short: Level
    rows: npt.NDArray[np.int64]


def split_short_entries(level: Level, *, max_rows: int) -> MixedLevel | None:
    """Split a level, if its short entries would be run in tiles that are too large for them.

    Args:
        level: Any level.
        max_rows: Rows of an entry that is short.

    Returns:
        None if the entries are short on average, or if none of them is.
    """
    num_rows, num_pages = np.diff(level.qo_indptr), np.diff(level.kv_indptr)
    is_short = num_rows <= max_rows
    if level.qo_indptr[-1] <= max_rows * len(num_rows) or not is_short.any():
        return None
    is_short_page = np.repeat(is_short, num_pages)
    return MixedLevel(
        long=Level(
            page_size=level.page_size,
            qo_indptr=level.qo_indptr,
            kv_indptr=_indptr(np.where(is_short, 0, num_pages)),
            kv_indices=level.kv_indices[~is_short_page],
            kv_last_page_len=np.where(is_short, 0, level.kv_last_page_len).astype(np.int32),
        ),
        short=Level(
            page_size=level.page_size,
            qo_indptr=_indptr(num_rows[is_short]),
            kv_indptr=_indptr(num_pages[is_short]),
            kv_indices=level.kv_indices[is_short_page],
            kv_last_page_len=level.kv_last_page_len[is_short],
        ),
        rows=np.flatnonzero(np.repeat(is_short, num_rows)),
    )


def _indptr(lengths: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
