"""When reading a shared prefix once is worth another level. Pure: counts in, a gain out."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["ALWAYS", "CPU", "H200", "NEVER", "CostModel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """What a level costs, in KV tokens that could be read in the same time.

    A node that is a level is read once for all sequences below it, and its result is merged into every row. A node that
    is none is folded into what lies below it, and read again by each of those.

    Attributes:
        level_cost_tokens: One more level for the whole step: kernel launches.
        node_cost_tokens: One more node in a level: a call on the CPU, a tile that is not full on a GPU.
        row_cost_tokens: One more row to merge.
        min_tokens: A shorter node is folded.
        min_entries: A node with fewer readers is folded.
        max_levels: Most levels above the last one; 0 switches the cascade off.
    """

    level_cost_tokens: float = 0.0
    node_cost_tokens: float = 0.0
    row_cost_tokens: float = 0.0
    min_tokens: int = 1
    min_entries: int = 2
    max_levels: int = 4

    def gain(self, *, num_entries: int, num_tokens: int, num_rows: int) -> float:
        """KV tokens saved by making a node a level; not positive if it should be folded.

        Args:
            num_entries: How many entries of the levels below would read it otherwise.
            num_tokens: Its length, with what is folded into it.
            num_rows: New tokens of all sequences below it.
        """
        if num_tokens < self.min_tokens or num_entries < self.min_entries:
            return 0.0
        return (num_entries - 1) * num_tokens - self.node_cost_tokens - self.row_cost_tokens * num_rows


CPU = CostModel(node_cost_tokens=250, row_cost_tokens=2, min_tokens=16)
"""Cautious: `benchmarks/bench_attention.py` fits 0 to 280 tokens for a node and 0 to 20 for a row.

Its cases with one new token per sequence take 1 to 3 % longer than if the better way was known for each, those with 24
take 7 to 12 %. The machine was busy, so nothing finer was read into it.
"""

H200 = CostModel(level_cost_tokens=8000, node_cost_tokens=8000, row_cost_tokens=6, min_tokens=256, min_entries=4)
"""An estimate, not a measurement: three small kernels take as long as about 10 k tokens of a layer of an 8B model."""

ALWAYS = CostModel(node_cost_tokens=-math.inf, min_entries=1, max_levels=1 << 20)
"""Every node is a level, whatever it costs."""

NEVER = CostModel(max_levels=0)
"""Plain paged attention: no levels, each sequence reads its whole path."""
