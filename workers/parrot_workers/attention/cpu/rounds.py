"""The calls of a step in rounds, and how the results of calls become those of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from parrot_workers.attention.cpu.calls import Call, Part
from parrot_workers.attention.cpu.kernels import merge
from parrot_workers.attention.cpu.sources import LayerInput

__all__ = ["ReadyRound", "Work"]


@dataclass(frozen=True, slots=True)
class ReadyRound:
    """Calls of which no two have a row in common.

    Attributes:
        calls: In any order.
        rows: Where their results belong, one after the other. In the first round, which has all rows: which result
            belongs to each row. None for all rows in order.
    """

    calls: Sequence[Call]
    rows: slice | Tensor | None


@dataclass(frozen=True, slots=True)
class Work:
    """All calls of a step, for layers of one shape."""

    rounds: Sequence[ReadyRound]

    def run(self, layer: LayerInput) -> Tensor:
        """Returns: shape [num_rows, num_kv_heads, group, head_dim]."""
        first, *others = self.rounds
        out, lse = _compute(first.calls, layer)
        if isinstance(first.rows, Tensor):
            out, lse = out.index_select(0, first.rows), lse.index_select(0, first.rows)
        for each in others:
            out, lse = _add(out, lse, each.rows, _compute(each.calls, layer))
        return out


def _compute(calls: Sequence[Call], layer: LayerInput) -> Part:
    parts = [call(layer) for call in calls]
    if len(parts) == 1:
        return parts[0]
    return Part(torch.cat([part.out for part in parts]), torch.cat([part.lse for part in parts]))


def _add(out: Tensor, lse: Tensor, rows: slice | Tensor | None, part: Part) -> tuple[Tensor, Tensor]:
    """Merge a part into its rows. `out` and `lse` are written to, or replaced."""
    if rows is None:
        return merge(out, lse, *part), torch.logaddexp(lse, part.lse)
    if isinstance(rows, Tensor):
        before = Part(out.index_select(0, rows), lse.index_select(0, rows))
        out.index_copy_(0, rows, merge(*before, *part))
        lse.index_copy_(0, rows, torch.logaddexp(before.lse, part.lse))
    else:
        out[rows] = merge(out[rows], lse[rows], *part)
        lse[rows] = torch.logaddexp(lse[rows], part.lse)
    return out, lse
