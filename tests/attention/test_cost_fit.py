"""The benchmark of attention: its fit finds the constants that times were made with, and a case runs."""

from __future__ import annotations

from dataclasses import asdict

import torch
from parrot_workers.attention import NEVER, CostModel, build_plan

from benchmarks.bench_attention import Case, Measured, Settings, compare, fit, make_spans, measure


def _make_case(num_groups: int, num_readers: int, num_shared: int, *, num_new: int = 1) -> Case:
    return Case(num_groups=num_groups, num_readers=num_readers, num_shared=num_shared, num_own=16, num_new=num_new)


def _make_times(node_tokens: float, row_tokens: float) -> list[Measured]:
    """Times as the cost model says they are, with a KV token at 0.05 microseconds."""
    measured = []
    for case in (_make_case(*each) for each in ((1, 2, 16), (1, 8, 64), (4, 4, 256), (2, 32, 16), (4, 16, 1024))):
        saved, nodes, rows = case.columns
        gain = saved + node_tokens * nodes + row_tokens * rows
        measured.append(Measured(**asdict(case), plain_us=1000.0, cascade_us=1000.0 - 0.05 * gain))
    return measured


def test_fit_finds_the_constants() -> None:
    measured = _make_times(300, 7)
    assert fit(measured) == CostModel(node_cost_tokens=300, row_cost_tokens=7)
    totals = compare(measured, fit(measured))
    assert totals["fitted"] == totals["best"]
    assert totals["best"] < min(totals["no level"], totals["all levels"])


def test_a_level_costs_no_less_than_nothing() -> None:
    """Merging a row cannot gain time; a fit that says so is noise."""
    fitted = fit(_make_times(300, -5))
    assert fitted.row_cost_tokens == 0
    assert fitted.node_cost_tokens >= 0


def test_cases_have_the_tokens_that_they_say() -> None:
    case = _make_case(2, 3, 32, num_new=4)
    spans, num_pages = make_spans(case)
    plan = build_plan(spans, page_size=16, cost=NEVER)
    assert plan.num_rows == case.num_rows == 24
    assert all(span.end - span.begin == 4 and span.begin >= 32 + 8 for span in spans)
    assert plan.flat.kv_indices.max() < num_pages


def test_a_case_is_timed_both_ways() -> None:
    settings = Settings(
        backend="cpu", dtype=torch.float32, heads=(4, 2, 8), num_new=1, num_own=16, num_layers=1, repeat=1
    )
    measured = measure(_make_case(1, 2, 32), settings)
    assert measured.plain_us > 0
    assert measured.cascade_us > 0
