"""From what is to be read to calls of the kernel: what is read in place, what is gathered, and together with what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from parrot_workers.attention.cpu.calls import (
    BatchCall,
    Call,
    CausalBatchCall,
    NodeCall,
    RunsCall,
    SequenceCall,
)
from parrot_workers.attention.cpu.rounds import ReadyRound, Work
from parrot_workers.attention.cpu.sources import Gather, Run, Source, Strided
from parrot_workers.attention.cpu.units import Band, Causal, CutSizes, Round, Unit

__all__ = ["HeadShape", "Workspace", "make_work"]

RUN_BYTES = 192 << 10
"""K and V of a stretch of pages that is read in place. A call costs as much as copying about so much."""

GATHERED_BYTES = 1 << 20
"""K and V that are gathered for one call: they stay in a core's cache until the kernel reads them."""

MAX_GATHERED_BYTES = 8 << 20
"""The same for a sequence that is longer by itself; bounds the memory."""

MIN_CAUSAL_ROWS = 64
"""New tokens of a sequence from which on a call of its own pays."""


class HeadShape(NamedTuple):
    """What calls depend on besides the plan.

    Attributes:
        group: Query heads of a KV head.
    """

    num_kv_heads: int
    group: int
    head_dim: int
    dtype: torch.dtype

    @property
    def token_bytes(self) -> int:
        """K and V of one token."""
        return 2 * self.num_kv_heads * self.head_dim * self.dtype.itemsize

    @property
    def sizes(self) -> CutSizes:
        """How the plan is cut."""
        min_run, max_gathered = -(-RUN_BYTES // self.token_bytes), MAX_GATHERED_BYTES // self.token_bytes
        return CutSizes(min_run, max_gathered)


class Workspace:
    """Memory for what is gathered: one piece for keys, one for values; calls use it one after the other."""

    def __init__(self) -> None:
        self._memory: dict[torch.dtype, Tensor] = {}

    def take(self, num_elements: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return two pieces of this size."""
        memory = self._memory.get(dtype)
        if memory is None or memory.shape[1] < num_elements:
            with torch.inference_mode(False):  # else it could not be written to outside of inference mode
                memory = self._memory[dtype] = torch.empty(2, num_elements, dtype=dtype)
        k, v = memory[:, :num_elements]
        return k, v


def make_work(rounds: Iterable[Round], shape: HeadShape, num_rows: int, workspace: Workspace) -> Work:
    """Make the calls of a step.

    Args:
        rounds: The first has all rows.
        shape: Of the layers.
        num_rows: Rows of the step.
        workspace: Memory for what is gathered.
    """
    ready: list[ReadyRound] = []
    for each in rounds:
        maker = _Maker(shape, workspace, each.page_size)
        maker.add_units(each.units)
        maker.add_causals(each.causals)
        maker.add_bands(each.bands)
        rows = np.concatenate(maker.rows)
        ready.append(ReadyRound(maker.calls, _place(rows, num_rows) if ready else _restore(rows)))
    return Work(ready)


def _restore(rows: npt.NDArray[np.int64]) -> Tensor | None:
    """Where the result of each row is."""
    return None if _is_consecutive(rows) else torch.from_numpy(np.argsort(rows))


def _place(rows: npt.NDArray[np.int64], num_rows: int) -> slice | Tensor | None:
    """Where the results belong."""
    if not _is_consecutive(rows):
        return torch.from_numpy(rows)
    return None if len(rows) == num_rows else slice(int(rows[0]), int(rows[-1]) + 1)


def _is_consecutive(numbers: npt.NDArray[np.integer]) -> bool:
    return bool((np.diff(numbers) == 1).all())


class _Maker:
    """Makes the calls of one round, and keeps count of the rows whose results they give."""

    def __init__(self, shape: HeadShape, workspace: Workspace, page_size: int) -> None:
        self.calls: list[Call] = []
        self.rows: list[npt.NDArray[np.int64]] = []
        self._shape = shape
        self._workspace = workspace
        self._page_size = page_size

    def add_units(self, units: Sequence[Unit]) -> None:
        runs = sorted((unit for unit in units if unit.is_run), key=_by_size_and_place)
        alone = []
        min_run = self._shape.sizes.min_run
        for alike in _progressions(runs):
            if len(alike) > 1 and len(alike) * alike[0].num_tokens >= min_run:
                self._add_strided(alike)
            else:
                alone += alike
        self._add_runs([unit for unit in alone if unit.num_tokens >= min_run])
        gathered = [unit for unit in alone if unit.num_tokens < min_run] + [unit for unit in units if not unit.is_run]
        self._add_gathered(sorted(gathered, key=_by_size_and_place))

    def _add_strided(self, units: Sequence[Unit]) -> None:
        first, second = units[:2]
        begin, after = (int(unit.pages[0]) * self._page_size for unit in (first, second))
        rows = np.concatenate([_rows(unit.row, unit.num_rows) for unit in units])
        source = Strided(len(units), begin, after - begin, first.num_tokens)
        self._add(BatchCall(_index(rows), first.num_rows, source, None), rows)

    def _add_runs(self, units: Sequence[Unit]) -> None:
        single = [unit for unit in units if unit.num_rows == 1]
        if single:
            runs = [(unit.row, int(unit.pages[0]) * self._page_size, unit.num_tokens) for unit in single]
            self._add(RunsCall(runs), np.array([unit.row for unit in single]))
        for unit in units:
            if unit.num_rows > 1:
                source = Run(int(unit.pages[0]) * self._page_size, unit.num_tokens)
                self._add(NodeCall(unit.row, unit.num_rows, source), _rows(unit.row, unit.num_rows))

    def _add_gathered(self, units: Sequence[Unit]) -> None:
        max_tokens = GATHERED_BYTES // self._shape.token_bytes
        for _, alike in groupby(units, key=lambda unit: unit.num_rows):
            family = list(alike)
            for begin, end in _chunks([unit.num_tokens for unit in family], max_tokens):
                self._add_batch(family[begin:end])

    def _add_batch(self, units: Sequence[Unit]) -> None:
        """Units with equally many rows."""
        first = units[0]
        lens = [unit.num_tokens for unit in units]
        source = self._gather([unit.pages for unit in units], self._page_size, max(lens))
        rows = np.concatenate([_rows(unit.row, unit.num_rows) for unit in units])
        if len(units) == 1:
            self._add(NodeCall(first.row, first.num_rows, source), rows)
        else:
            self._add(BatchCall(_index(rows), first.num_rows, source, _padding_mask(lens, self._shape.dtype)), rows)

    def add_causals(self, causals: Sequence[Causal]) -> None:
        family = sorted(causals, key=lambda causal: len(causal.slots))
        lens = [len(causal.slots) for causal in family]
        num_short = sum(length < MIN_CAUSAL_ROWS for length in lens)
        max_tokens = GATHERED_BYTES // self._shape.token_bytes
        for begin, end in _chunks(lens[:num_short], max_tokens):
            self._add_causal_batch(family[begin:end])
        for causal in family[num_short:]:
            self._add_sequence(causal.row, len(causal.slots), causal.slots, None)

    def _add_causal_batch(self, causals: Sequence[Causal]) -> None:
        lens = [len(causal.slots) for causal in causals]
        source = self._gather([causal.slots for causal in causals], 1, max(lens))
        padded = np.concatenate([_pad(_rows(causal.row, len(causal.slots)), max(lens)) for causal in causals])
        is_kept = (np.arange(max(lens)) < np.array(lens)[:, None]).reshape(-1)
        kept = None if is_kept.all() else torch.from_numpy(np.flatnonzero(is_kept))
        self._add(CausalBatchCall(_index(padded), len(causals), source, kept), padded[is_kept])

    def add_bands(self, bands: Sequence[Band]) -> None:
        for band in bands:
            mask = _band_mask(band.num_rows, len(band.slots), band.window, self._shape.dtype)
            self._add_sequence(band.row, band.num_rows, band.slots, mask)

    def _add_sequence(self, row: int, num_rows: int, slots: npt.NDArray[np.int64], mask: Tensor | None) -> None:
        is_run = _is_consecutive(slots)
        source: Source = Run(int(slots[0]), len(slots)) if is_run else self._gather([slots], 1, len(slots))
        self._add(SequenceCall(row, num_rows, source, mask), _rows(row, num_rows))

    def _add(self, call: Call, rows: npt.NDArray[np.int64]) -> None:
        self.calls.append(call)
        self.rows.append(rows)

    def _gather(self, pages: Sequence[npt.NDArray[np.integer]], page_size: int, max_tokens: int) -> Gather:
        shape, batch, max_pages = self._shape, len(pages), max(map(len, pages))
        width = page_size * shape.num_kv_heads * shape.head_dim
        table = torch.from_numpy(np.concatenate([_pad(each, max_pages) for each in pages], dtype=np.int64))
        k, v = self._workspace.take(len(table) * width, shape.dtype)
        heads = (batch, max_pages * page_size, shape.num_kv_heads, shape.head_dim)
        k_heads, v_heads = (memory.view(heads)[:, :max_tokens].transpose(1, 2) for memory in (k, v))
        return Gather(table, page_size, k.view(-1, width), v.view(-1, width), k_heads, v_heads)


def _by_size_and_place(unit: Unit) -> tuple[int, int, int]:
    return unit.num_rows, unit.num_tokens, int(unit.pages[0])


def _progressions(units: Sequence[Unit]) -> list[list[Unit]]:
    """Cut sorted units into rows of equal ones whose first pages are equally far apart."""
    rows: list[list[Unit]] = []
    stride = None
    for unit in units:
        before = rows[-1][-1] if rows else None
        is_alike = before is not None and before[1] == unit[1] and before.num_tokens == unit.num_tokens
        distance = int(unit.pages[0] - before.pages[0]) if before is not None else 0
        if is_alike and stride in (None, distance):
            rows[-1].append(unit)
            stride = distance
        else:
            rows.append([unit])
            stride = None
    return rows


def _rows(row: int, num_rows: int) -> npt.NDArray[np.int64]:
    return np.arange(row, row + num_rows)


def _index(rows: npt.NDArray[np.int64]) -> slice | Tensor:
    return slice(int(rows[0]), int(rows[-1]) + 1) if _is_consecutive(rows) else torch.from_numpy(rows)


def _pad(numbers: npt.NDArray[np.integer], length: int) -> npt.NDArray[np.integer]:
    """Fill up with the first: what is read there is hidden, but it has to be finite."""
    return np.concatenate([numbers, np.repeat(numbers[:1], length - len(numbers))])


def _chunks(lens: Sequence[int], max_tokens: int) -> list[tuple[int, int]]:
    """Cut ascending lengths into ranges that, padded, have at most so many tokens, and not much padding."""
    chunks, begin, total = [], 0, 0
    for index, length in enumerate(lens):
        padded = (index + 1 - begin) * length
        if index > begin and (padded > max_tokens or padded - total - length > max_tokens // 4):
            chunks.append((begin, index))
            begin, total = index, 0
        total += length
    return [*chunks, (begin, len(lens))] if lens else []


def _padding_mask(lens: Sequence[int], dtype: torch.dtype) -> Tensor | None:
    """Shape [batch, 1, 1, max(lens)]; None if all are equally long."""
    if min(lens) == max(lens):
        return None
    is_hidden = torch.arange(max(lens)) >= torch.tensor(lens)[:, None, None, None]
    return torch.zeros(is_hidden.shape, dtype=dtype).masked_fill(is_hidden, -torch.inf)


def _band_mask(num_rows: int, num_tokens: int, window: int, dtype: torch.dtype) -> Tensor:
    """Shape [num_rows, num_tokens]: the last row is at the last token."""
    place = torch.arange(num_tokens - num_rows, num_tokens)[:, None]
    token = torch.arange(num_tokens)
    is_hidden = (token > place) | (token <= place - window)
    return torch.zeros(is_hidden.shape, dtype=dtype).masked_fill(is_hidden, -torch.inf)
