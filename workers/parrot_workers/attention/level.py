"""One level of a plan: index arrays in the layout that FlashInfer's paged wrappers take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Entry", "Level", "Piece", "make_level"]

Int32Array: TypeAlias = npt.NDArray[np.int32]


class Piece(NamedTuple):
    """Consecutive tokens and their pages; the last page may be filled in part, and there may be more than needed."""

    pages: Int32Array
    num_tokens: int


class Entry(NamedTuple):
    """Rows that read the same tokens.

    Attributes:
        num_rows: New tokens; entries of a level lie side by side in the packed batch.
        pieces: What they read, in order of position; nothing for an empty entry.
    """

    num_rows: int
    pieces: Sequence[Piece]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Which rows read which pages: rows [qo_indptr[i], qo_indptr[i+1]) those in [kv_indptr[i], kv_indptr[i+1]).

    Attributes:
        page_size: Tokens in a page of *this* level: that of the pool, or 1 if an entry joins segments that end inside a
            page. With 1, `kv_indices` are slots, and the pool is to be viewed as [num_pages * page_size, 1, ...].
        qo_indptr: Offsets of each entry's rows, shape [num_entries + 1], int32; qo_indptr[-1] is the number of rows.
        kv_indptr: Offsets of each entry's pages, shape [num_entries + 1], int32.
        kv_indices: Page ids, shape [kv_indptr[-1]], int32.
        kv_last_page_len: Tokens in each entry's last page, shape [num_entries], int32; 0 for an empty entry.
    """

    page_size: int
    qo_indptr: Int32Array
    kv_indptr: Int32Array
    kv_indices: Int32Array
    kv_last_page_len: Int32Array

    @property
    def num_entries(self) -> int:
        """Entries, the empty ones counted."""
        return len(self.kv_last_page_len)

    @property
    def kv_lens(self) -> Int32Array:
        """Tokens that each entry reads, shape [num_entries], int32."""
        num_pages = np.diff(self.kv_indptr)
        return np.where(num_pages > 0, (num_pages - 1) * self.page_size + self.kv_last_page_len, 0).astype(np.int32)


def make_level(entries: Sequence[Entry], *, page_size: int) -> Level:
    """Lay out entries that together cover all rows."""
    arrays: list[Int32Array] = []
    num_rows, num_pages, num_tokens = [0], [0], []
    if not all(_is_aligned(entry, page_size) for entry in entries):
        entries = [_by_slot(entry, page_size) for entry in entries]
        page_size = 1
    for entry in entries:
        pages = tokens = 0
        for piece in entry.pieces:
            count = -(-piece.num_tokens // page_size)
            arrays.append(piece.pages[:count])
            pages += count
            tokens += piece.num_tokens
        num_rows.append(entry.num_rows)
        num_pages.append(pages)
        num_tokens.append(tokens)
    kv_indices = np.concatenate(arrays) if arrays else np.zeros(0, np.int32)
    assert len(kv_indices) == sum(num_pages), "a segment has fewer pages than its tokens need"
    kv_lens = np.array(num_tokens, np.int32)
    return Level(
        page_size=page_size,
        qo_indptr=np.cumsum(num_rows, dtype=np.int32),
        kv_indptr=np.cumsum(num_pages, dtype=np.int32),
        kv_indices=kv_indices.astype(np.int32, copy=False),
        kv_last_page_len=np.where(kv_lens > 0, (kv_lens - 1) % page_size + 1, 0).astype(np.int32),
    )


def _is_aligned(entry: Entry, page_size: int) -> bool:
    """Whether the pages of all pieces joined are the pages of one token sequence."""
    return len(entry.pieces) < 2 or all(piece.num_tokens % page_size == 0 for piece in entry.pieces[:-1])


def _by_slot(entry: Entry, page_size: int) -> Entry:
    """The same entry in pages of one token."""
    return Entry(entry.num_rows, [_slots(piece, page_size) for piece in entry.pieces])


def _slots(piece: Piece, page_size: int) -> Piece:
    slots = piece.pages[:, None] * page_size + np.arange(page_size, dtype=np.int32)
    return Piece(slots.reshape(-1)[: piece.num_tokens].astype(np.int32), piece.num_tokens)
