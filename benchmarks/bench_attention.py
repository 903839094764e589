"""What does a shared prefix cost in attention, read once (cascade) or by every sequence (plain)?

One layer of a decode step is timed for groups of sequences that share a prefix each, over prefix length, sequences per
group and number of groups, both ways, on this machine. From the differences the constants of the cost model are fitted:
what a node, and a level, cost, in KV tokens that could be read in the same time.

    python benchmarks/bench_attention.py [--dtype bfloat16] [--threads 2] [--json FILE]

The table has microseconds per layer. `read once` is the plan with every prefix as a level, `speed-up` what that gains;
`model` says whether the preset that the engine uses (`parrot_workers.attention.CPU`) would make it a level. Below it:
the fitted constants, and how much time all cases together take with no level, all levels, the preset's choice, the
fitted choice, and the better one of each case. On a machine that does other things as well, only the minima mean
anything: raise --repeat, and compare runs before you believe a constant.

A GPU has a benchmark of its own, `python -m benchmarks.gpu.attention`: there a layer is timed inside a CUDA graph.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from parrot_workers.attention import ALWAYS, CPU, NEVER, AttentionPlan, CostModel, SequenceSpan, build_plan
from parrot_workers.attention.factory import create_backend
from parrot_workers.kv_cache import OWN, Segment

PAGE_SIZE: Final = 16
ROOM: Final = 4
"""Free pages between neighbours, as the page allocator leaves them."""

READERS: Final = (2, 4, 8, 16, 32)
PREFIXES: Final = (16, 32, 64, 128, 256, 512, 1024)
GROUPS: Final = (1, 4)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Groups of sequences.

    Attributes:
        num_groups: Groups.
        num_readers: Sequences in each.
        num_shared: Tokens of each group's prefix.
        num_own: Further tokens of each sequence, on average: no two are equally long.
        num_new: New tokens of each sequence, which follow on these.
    """

    num_groups: int
    num_readers: int
    num_shared: int
    num_own: int
    num_new: int

    @property
    def num_rows(self) -> int:
        return self.num_groups * self.num_readers * self.num_new

    @property
    def columns(self) -> list[float]:
        """What the time saved is made of: tokens not read again, minus nodes, minus rows to merge."""
        return [self.num_groups * (self.num_readers - 1) * self.num_shared, -self.num_groups, -self.num_rows]


@dataclass(frozen=True, kw_only=True)
class Measured(Case):
    """A case with its times, in microseconds per layer."""

    plain_us: float
    cascade_us: float

    def has_level(self, cost: CostModel) -> bool:
        """Whether a cost model would read the prefixes once."""
        saved, nodes, rows = self.columns
        return self.num_shared >= cost.min_tokens and (
            saved + cost.node_cost_tokens * nodes + cost.row_cost_tokens * rows > cost.level_cost_tokens
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is timed; see `--help`."""

    backend: str
    dtype: torch.dtype
    heads: tuple[int, int, int]
    num_new: int
    num_own: int
    num_layers: int
    repeat: int


def main() -> None:
    settings, path = parse()
    cases = [
        Case(
            num_groups=groups,
            num_readers=readers,
            num_shared=shared,
            num_own=settings.num_own,
            num_new=settings.num_new,
        )
        for groups in GROUPS
        for readers in READERS
        for shared in PREFIXES
    ]
    print(f"{'groups':>6} {'readers':>7} {'prefix':>6} {'plain':>9} {'read once':>9} {'speed-up':>8}  model")
    measured = []
    for case in cases:
        each = measure(case, settings)
        measured.append(each)
        print(
            f"{each.num_groups:6} {each.num_readers:7} {each.num_shared:6} {each.plain_us:9.0f} {each.cascade_us:9.0f}"
            f" {each.plain_us / each.cascade_us:8.2f}  {'level' if each.has_level(CPU) else '-'}",
            flush=True,
        )
    fitted = fit(measured)
    totals = compare(measured, fitted)
    print(f"\nfitted: {fitted}\npreset: {CPU}")
    print("all cases together, ms: " + ", ".join(f"{name} {total:.2f}" for name, total in totals.items()))
    if path is not None:
        facts: dict[str, object] = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
        facts |= {"threads": torch.get_num_threads(), "settings": {**asdict(settings), "dtype": str(settings.dtype)}}
        result = {**facts, "cases": [asdict(each) for each in measured], "fitted": asdict(fitted), "totals_ms": totals}
        path.write_text(json.dumps(result, indent=1) + "\n")


def parse() -> tuple[Settings, Path | None]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("cpu", "reference"), default="cpu", help="what runs the plans [cpu]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="[float32]")
    metavar = ("QO", "KV", "DIM")
    parser.add_argument("--heads", type=int, nargs=3, default=(12, 4, 64), metavar=metavar, help="[12 4 64]")
    parser.add_argument("--rows", type=int, default=1, help="new tokens of each sequence: more than 1 is a prompt [1]")
    parser.add_argument("--own", type=int, default=64, help="tokens behind the prefix before the new ones, about [64]")
    parser.add_argument("--layers", type=int, default=4, help="layers timed in a row; more leave less in caches [4]")
    parser.add_argument("--repeat", type=int, default=20, help="runs of each, of which the fastest counts [20]")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch [its own choice]")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    dtype = getattr(torch, given.dtype)
    settings = Settings(
        backend=given.backend,
        dtype=dtype,
        heads=tuple(given.heads),
        num_new=given.rows,
        num_own=given.own,
        num_layers=given.layers,
        repeat=given.repeat,
    )
    return settings, given.json


def make_spans(case: Case) -> tuple[list[SequenceSpan], int]:
    """The sequences, and the number of pages that they take."""
    rng = np.random.default_rng(0)
    next_page = 1

    def pages(num_tokens: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        nonlocal next_page
        first, count = next_page, -(-num_tokens // PAGE_SIZE)
        next_page += count + ROOM
        return np.arange(first, first + count, dtype=np.int32)

    spans = []
    for group in range(case.num_groups):
        shared = Segment(group, pages(case.num_shared), 0, case.num_shared, case.num_shared)
        for _ in range(case.num_readers):
            num_own = int(rng.integers(case.num_own // 2, case.num_own * 3 // 2 + 1)) + case.num_new
            own = Segment(OWN, pages(num_own), case.num_shared, num_own, num_own - case.num_new)
            end = case.num_shared + num_own
            spans.append(SequenceSpan(segments=(shared, own), begin=end - case.num_new, end=end))
    return spans, next_page


def measure(case: Case, settings: Settings) -> Measured:
    """Time a case both ways, turn by turn, so that what else the machine does meets both."""
    spans, num_pages = make_spans(case)
    shape = (settings.num_layers, 2, num_pages, PAGE_SIZE, *settings.heads[1:])
    pool = torch.randn(shape, dtype=torch.float32).to(settings.dtype)
    plans = [build_plan(spans, page_size=PAGE_SIZE, cost=cost) for cost in (NEVER, ALWAYS)]
    runs = [make_run(plan, pool, settings) for plan in plans]
    best = [float("inf")] * len(runs)
    for _ in range(settings.repeat):
        for index, run in enumerate(runs):
            start = time.perf_counter()
            run()
            best[index] = min(best[index], time.perf_counter() - start)
    plain_us, cascade_us = (1e6 * seconds / settings.num_layers for seconds in best)
    return Measured(**asdict(case), plain_us=plain_us, cascade_us=cascade_us)


def make_run(plan: AttentionPlan, pool: torch.Tensor, settings: Settings) -> Callable[[], None]:
    """What runs all layers once; it has run once already."""
    backend = create_backend(settings.backend, device=torch.device("cpu"), layers=[])
    num_qo_heads, _, head_dim = settings.heads
    q = torch.randn(plan.num_rows, num_qo_heads, head_dim).to(settings.dtype)
    backend.plan(plan)

    @torch.inference_mode()
    def run() -> None:
        for keys, values in pool:
            backend.run(q, keys, values, scale=head_dim**-0.5)

    run()
    return run


def fit(measured: Sequence[Measured]) -> CostModel:
    """Least squares: time saved = a * tokens not read again - b * nodes - c * rows; b and c are told in tokens.

    Each case counts in relation to its own time: what is to be right is the choice near the break-even point. Constants
    that come out negative are left out and the others fitted anew.
    """
    weights = np.array([1 / each.plain_us for each in measured])
    columns = np.array([each.columns for each in measured]) * weights[:, None]
    saved = np.array([each.plain_us - each.cascade_us for each in measured]) * weights
    used = [0, 1, 2]
    while True:
        values = np.linalg.lstsq(columns[:, used], saved, rcond=None)[0]
        if (values >= 0).all() or len(used) == 1:
            break
        used = [column for column, value in zip(used, values, strict=True) if value >= 0 or column == 0]
    token_us, node_us, row_us = (dict(zip(used, values.tolist(), strict=True)).get(column, 0.0) for column in range(3))
    return CostModel(node_cost_tokens=round(node_us / token_us), row_cost_tokens=round(row_us / token_us, 1))


def compare(measured: Sequence[Measured], fitted: CostModel) -> dict[str, float]:
    """Milliseconds of all cases together, by who chooses."""
    choices: dict[str, Callable[[Measured], bool]] = {
        "no level": lambda each: False,
        "all levels": lambda each: True,
        "preset": lambda each: each.has_level(CPU),
        "fitted": lambda each: each.has_level(fitted),
        "best": lambda each: each.cascade_us < each.plain_us,
    }
    return {
        name: sum(each.cascade_us if choose(each) else each.plain_us for each in measured) / 1e3
        for name, choose in choices.items()
    }


if __name__ == "__main__":
    main()
