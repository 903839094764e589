"""What a level costs and what it saves: one layer of decode attention, plain paged against cascade.

Groups of sequences share a prefix each; every sequence has a suffix of its own. Both ways run in a graph, as decode
does, over the pools of several layers one after the other, as a model does, so that no layer finds its keys in the
GPU's cache. The constants of the cost model are fitted to the differences.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from parrot_workers.attention import ALWAYS, NEVER, AttentionBackend, AttentionPlan, CostModel, SequenceSpan, build_plan
from parrot_workers.kv_cache import OWN, Segment

from benchmarks.gpu.model import DEVICE, IS_REHEARSAL, synchronize
from benchmarks.gpu.stage import Deadline, tell, timed

PAGE_SIZE: Final = 16
NUM_OWN: Final = 128
NUM_LAYERS: Final = 2 if IS_REHEARSAL else 8
NUM_REPLAYS: Final = 3 if IS_REHEARSAL else 20
HEADS: Final = (4, 2, 64) if IS_REHEARSAL else (32, 8, 128)
"""Query heads, KV heads and their size; those of Llama-3.1-8B."""


@dataclass(frozen=True, slots=True)
class Case:
    """Groups of sequences.

    Attributes:
        num_groups: Groups.
        num_readers: Sequences in each.
        num_shared: Tokens of each group's prefix.
    """

    num_groups: int
    num_readers: int
    num_shared: int

    @property
    def num_rows(self) -> int:
        return self.num_groups * self.num_readers

    @property
    def num_saved_tokens(self) -> int:
        return self.num_groups * (self.num_readers - 1) * self.num_shared


SINGLE: Final = [Case(1, readers, shared) for shared in (256, 1024, 4096) for readers in (4, 8, 16, 32, 64, 128, 256)]
SEVERAL: Final = [Case(groups, 256 // groups, shared) for shared in (256, 1024) for groups in (4, 16, 60)]
CASES: Final = [Case(1, 4, 64), Case(2, 4, 64), Case(1, 8, 128), Case(2, 8, 64)] if IS_REHEARSAL else SINGLE + SEVERAL


def main() -> None:
    deadline = Deadline()
    pool = make_pool(max(num_pages(case) for case in CASES))
    measured: list[tuple[Case, float]] = []
    for case in CASES:
        if not deadline.allows(4, str(case)):
            break
        spans = make_spans(case)
        plain_s, plain_plan_s = time_layer(build_plan(spans, page_size=PAGE_SIZE, cost=NEVER), pool)
        cascade_s, cascade_plan_s = time_layer(build_plan(spans, page_size=PAGE_SIZE, cost=ALWAYS), pool)
        measured.append((case, plain_s - cascade_s))
        tell(
            "attention",
            num_groups=case.num_groups,
            num_readers=case.num_readers,
            num_shared=case.num_shared,
            plain_us=1e6 * plain_s,
            cascade_us=1e6 * cascade_s,
            speedup=plain_s / cascade_s,
            plain_plan_ms=1e3 * plain_plan_s,
            cascade_plan_ms=1e3 * cascade_plan_s,
        )
    if len(measured) >= 4:
        tell("cost model", **fit(measured))


def num_pages(case: Case) -> int:
    """Pages of a case, the dummy page counted."""
    return 1 + (case.num_groups * case.num_shared + case.num_rows * NUM_OWN) // PAGE_SIZE


def make_pool(count: int) -> torch.Tensor:
    """Keys and values of all layers, shape [num_layers, 2, num_pages, page_size, num_kv_heads, head_dim]."""
    shape = (NUM_LAYERS, 2, count, PAGE_SIZE, HEADS[1], HEADS[2])
    return torch.randn(shape, dtype=torch.bfloat16, device=DEVICE)


def make_spans(case: Case) -> list[SequenceSpan]:
    """Each sequence decodes its next token; pages are shuffled, as they are after a while."""
    pages = np.random.default_rng(0).permutation(np.arange(1, num_pages(case), dtype=np.int32))
    per_prefix, per_own = case.num_shared // PAGE_SIZE, NUM_OWN // PAGE_SIZE
    own = pages[case.num_groups * per_prefix :].reshape(case.num_groups, case.num_readers, per_own)
    end = case.num_shared + NUM_OWN
    spans = []
    for group in range(case.num_groups):
        prefix = pages[group * per_prefix : (group + 1) * per_prefix]
        shared = Segment(group, prefix, 0, case.num_shared, case.num_shared)
        for reader in range(case.num_readers):
            last = Segment(OWN, own[group, reader], case.num_shared, NUM_OWN, NUM_OWN - 1)
            spans.append(SequenceSpan(segments=(shared, last), begin=end - 1, end=end))
    return spans


def time_layer(plan: AttentionPlan, pool: torch.Tensor) -> tuple[float, float]:
    """Seconds of one layer, and seconds of making FlashInfer's plan for it."""
    q = torch.randn(plan.num_rows, HEADS[0], HEADS[2], dtype=torch.bfloat16, device=DEVICE)
    backend, record = make_backend(plan)
    backend.plan(plan)

    def run() -> None:
        for keys, values in pool:
            backend.run(q, keys, values, scale=HEADS[2] ** -0.5)

    replay = record(run)

    def replay_often() -> None:
        for _ in range(NUM_REPLAYS):
            replay()
        synchronize()

    replay_often()
    plan_s = statistics.median(timed(lambda: backend.plan(plan))[0] for _ in range(5))
    seconds, _ = timed(replay_often)
    return seconds / NUM_REPLAYS / len(pool), plan_s


def make_backend(plan: AttentionPlan) -> tuple[AttentionBackend, Callable[[Callable[[], None]], Callable[[], None]]]:
    """The backend for the plan's shape, and what makes a graph of a function."""
    if IS_REHEARSAL:
        from parrot_workers.attention.cpu import CPUBackend

        return CPUBackend(), lambda function: function
    from parrot_workers.attention.flashinfer import FlashInferBackend
    from parrot_workers.attention.flashinfer_graphs import FlashInferGraph, GraphArrays
    from parrot_workers.attention.graph_shape import find_shape
    from parrot_workers.engine.cuda_graphs import CudaRecorder

    device = torch.device(DEVICE)
    shape = find_shape(plan, max_rows=256, page_size=PAGE_SIZE)
    assert shape is not None
    arrays = GraphArrays(max_entries=256, max_indices=256 * 8192 // PAGE_SIZE, device=device)
    return FlashInferGraph(FlashInferBackend(device), shape, arrays), CudaRecorder(device).record


def fit(measured: list[tuple[Case, float]]) -> dict[str, float]:
    """Least squares: seconds saved = a * tokens not read again - b - c * nodes - d * rows; b, c, d told in tokens."""
    cases = [case for case, _ in measured]
    columns = [[case.num_saved_tokens, -1.0, -case.num_groups, -case.num_rows] for case in cases]
    saved = np.array([seconds for _, seconds in measured])
    matrix = np.array(columns, dtype=np.float64)
    scale = np.abs(matrix).max(axis=0)
    token_s, level_s, node_s, row_s = np.linalg.lstsq(matrix / scale, saved, rcond=None)[0] / scale
    predicted = matrix @ np.array([token_s, level_s, node_s, row_s])
    spread = float(((saved - saved.mean()) ** 2).sum())
    costs = CostModel(
        level_cost_tokens=max(0.0, level_s / token_s),
        node_cost_tokens=max(0.0, node_s / token_s),
        row_cost_tokens=max(0.0, row_s / token_s),
    )
    return {
        "ns_per_token": 1e9 * token_s,
        "level_cost_tokens": costs.level_cost_tokens,
        "node_cost_tokens": costs.node_cost_tokens,
        "row_cost_tokens": costs.row_cost_tokens,
        "r_squared": 1 - float(((saved - predicted) ** 2).sum()) / spread,
        "cases_where_plain_is_faster": sum(seconds < 0 for seconds in saved.tolist()),
    }


if __name__ == "__main__":
    main()
