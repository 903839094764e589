"""The reference backend, and with it the plan, against attention under one dense mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parrot_workers.attention import ALWAYS, NEVER, CostModel, build_plan
from parrot_workers.attention.reference import ReferenceBackend

from tests.attention.trees import TreeStep, attend_by_mask, make_tensors, tree_steps, unhurried

COSTS = st.sampled_from([ALWAYS, NEVER, CostModel(node_cost_tokens=10), CostModel(max_levels=1)])
LAYERS = st.fixed_dictionaries(
    {"scale": st.sampled_from([0.3, 1.0])},
    optional={"softcap": st.sampled_from([1.5, 30.0]), "window": st.integers(1, 40)},
)


@unhurried
@given(tree_steps(), COSTS, LAYERS, st.sampled_from([1, 2, 4, 8]))
def test_levels_merged_are_attention_under_the_mask(
    step: TreeStep, cost: CostModel, layer: dict[str, float], group: int
) -> None:
    plan = build_plan(step.spans, page_size=step.page_size, cost=cost)
    tensors = make_tensors(step, plan.num_rows, group=group)
    backend = ReferenceBackend()
    backend.plan(plan)
    out = backend.run(tensors.q, tensors.keys, tensors.values, **layer)  # type: ignore[arg-type]
    expected = attend_by_mask(step, plan, tensors, **layer)  # type: ignore[arg-type]
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@unhurried
@given(step=tree_steps())
def test_half_precision_is_only_in_what_goes_in_and_out(step: TreeStep, dtype: torch.dtype) -> None:
    """The result is the exact one, rounded once."""
    plan = build_plan(step.spans, page_size=step.page_size, cost=ALWAYS)
    tensors = make_tensors(step, plan.num_rows, dtype=dtype)
    backend = ReferenceBackend()
    backend.plan(plan)
    out = backend.run(tensors.q, tensors.keys, tensors.values, scale=0.3)
    expected = attend_by_mask(step, plan, tensors, scale=0.3)
    assert out.dtype == dtype
    tolerance = max(torch.finfo(dtype).eps, 1e-6)
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=1e-5 if dtype != torch.float64 else 1e-12)


@unhurried
@given(step=tree_steps(max_rows=3))
def test_what_lies_behind_the_last_token_does_not_count(step: TreeStep) -> None:
    plan = build_plan(step.spans, page_size=step.page_size, cost=ALWAYS)
    tensors = make_tensors(step, plan.num_rows)
    backend = ReferenceBackend()
    backend.plan(plan)
    before = backend.run(tensors.q, tensors.keys, tensors.values, scale=0.3)
    is_used = torch.zeros(step.num_pages * step.page_size, dtype=torch.bool)
    is_used[torch.tensor([slot for slots in step.expected_slots(plan) for slot in slots])] = True
    for cache in (tensors.keys, tensors.values):
        cache.flatten(0, 1)[~is_used] = 1e6
    assert torch.equal(backend.run(tensors.q, tensors.keys, tensors.values, scale=0.3), before)
