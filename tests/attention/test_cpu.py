"""The CPU backend against the reference: all ways to cut and to call, all types, with torch's kernel and without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parrot_workers.attention import ALWAYS, NEVER, AttentionPlan, CostModel, SequenceSpan, build_plan
from parrot_workers.attention.cpu import CPUBackend, maker
from parrot_workers.attention.cpu.calls import BatchCall, CausalBatchCall, NodeCall, RunsCall, SequenceCall
from parrot_workers.attention.cpu.kernels import HAS_FLASH
from parrot_workers.attention.cpu.maker import HeadShape, Workspace, make_work
from parrot_workers.attention.cpu.sources import Gather, Run, Strided
from parrot_workers.attention.cpu.units import CutSizes, Round, cut_levels, cut_window
from parrot_workers.attention.reference import ReferenceBackend
from parrot_workers.cpu_kernels import load_kernels
from parrot_workers.kv_cache import OWN, Segment

from tests.attention.trees import LayerTensors, TreeStep, make_tensors, tree_steps, unhurried

COSTS = st.sampled_from([ALWAYS, NEVER, CostModel(node_cost_tokens=10), CostModel(max_levels=1)])
LAYERS = st.fixed_dictionaries(
    {"scale": st.sampled_from([0.3, 1.0])},
    optional={"softcap": st.sampled_from([1.5, 30.0]), "window": st.integers(1, 40)},
)
SIZES = st.builds(CutSizes, st.integers(1, 40), st.integers(1, 40))
TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2.5e-2}

needs_flash = pytest.mark.skipif(not HAS_FLASH, reason="this torch has no such operator")
needs_compiler = pytest.mark.skipif(load_kernels(torch.float32) is None, reason="no C++ compiler")
kernels = pytest.mark.parametrize(
    "kernels",
    [
        pytest.param({"has_compiled": False}, id="flash", marks=needs_flash),
        pytest.param({"has_compiled": False, "has_flash": False}, id="matmul"),
        pytest.param({"has_compiled": True}, id="compiled", marks=needs_compiler),
    ],
)


@pytest.fixture(autouse=True, params=["as-measured", "tiny"])
def _thresholds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thresholds from which on things are read in place, or apart: also such that small steps have all of them."""
    if request.param == "tiny":
        monkeypatch.setattr(maker, "RUN_BYTES", 1 << 10)
        monkeypatch.setattr(maker, "GATHERED_BYTES", 1 << 11)
        monkeypatch.setattr(maker, "MAX_GATHERED_BYTES", 1 << 10)
        monkeypatch.setattr(maker, "MIN_CAUSAL_ROWS", 4)


def _assert_equals_reference(
    plan: AttentionPlan, tensors: LayerTensors, *, kernels: dict[str, bool] | None = None, **layer: Any
) -> None:
    reference, backend = ReferenceBackend(), CPUBackend(**kernels or {})
    outputs = []
    for each in (reference, backend):
        each.plan(plan)
        outputs.append(each.run(tensors.q, tensors.keys, tensors.values, **layer))
    assert outputs[1].dtype == tensors.q.dtype
    tolerance = TOLERANCE[tensors.q.dtype]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=tolerance, atol=tolerance)


@kernels
@unhurried
@given(step=tree_steps(max_rows=20), cost=COSTS, layer=LAYERS, group=st.sampled_from([1, 2, 4, 8]))
def test_any_step_gives_what_the_reference_gives(
    kernels: dict[str, bool], step: TreeStep, cost: CostModel, layer: dict[str, Any], group: int
) -> None:
    plan = build_plan(step.spans, page_size=step.page_size, cost=cost)
    _assert_equals_reference(
        plan, make_tensors(step, plan.num_rows, group=group, head_dim=16), kernels=kernels, **layer
    )


@kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@unhurried
@given(step=tree_steps(), cost=COSTS, layer=LAYERS)
def test_half_precision_is_near_to_the_reference(
    kernels: dict[str, bool], dtype: torch.dtype, step: TreeStep, cost: CostModel, layer: dict[str, Any]
) -> None:
    plan = build_plan(step.spans, page_size=step.page_size, cost=cost)
    _assert_equals_reference(
        plan, make_tensors(step, plan.num_rows, dtype=dtype, head_dim=16), kernels=kernels, **layer
    )


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [32, 64, 80, 96])
@unhurried
@given(step=tree_steps(max_rows=20), cost=COSTS, layer=LAYERS, group=st.sampled_from([1, 3, 8]))
def test_heads_of_all_sizes(
    head_dim: int, dtype: torch.dtype, step: TreeStep, cost: CostModel, layer: dict[str, Any], group: int
) -> None:
    plan = build_plan(step.spans, page_size=step.page_size, cost=cost)
    tensors = make_tensors(step, plan.num_rows, group=group, head_dim=head_dim, dtype=dtype)
    _assert_equals_reference(plan, tensors, **{**layer, "scale": layer["scale"] / 4})


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 100, 333])
@pytest.mark.parametrize(("num_past", "num_rows"), [(0, 700), (515, 130), (3, 257)])
def test_long_prompts(dtype: torch.dtype, window: int | None, num_past: int, num_rows: int) -> None:
    """More queries and keys than are read at a time; beside a second sequence with one new token."""
    lengths = [num_past + num_rows, 300]
    pages = np.random.default_rng(0).permutation(np.arange(1, 100, dtype=np.int32))
    first, second = pages[:60], pages[60:80]
    spans = [
        SequenceSpan(segments=(Segment(OWN, each, 0, length, length),), begin=begin, end=length)
        for each, length, begin in zip((first, second), lengths, (num_past, 299), strict=True)
    ]
    plan = build_plan(spans, page_size=16, cost=NEVER)
    keys, values = (torch.randn(100, 16, 2, 64).to(dtype) for _ in range(2))
    tensors = LayerTensors(torch.randn(num_rows + 1, 6, 64).to(dtype), keys, values)
    _assert_equals_reference(plan, tensors, scale=0.125, window=window)


@unhurried
@given(tree_steps(), COSTS, st.integers(1, 4), st.sampled_from([8, 16, 20]))
def test_shapes_of_layers_may_differ_within_a_step(
    step: TreeStep, cost: CostModel, num_kv_heads: int, head_dim: int
) -> None:
    plan = build_plan(step.spans, page_size=step.page_size, cost=cost)
    reference, backend = ReferenceBackend(), CPUBackend()
    for each in (reference, backend):
        each.plan(plan)
    for heads, dim in ((num_kv_heads, head_dim), (2, 8), (num_kv_heads, head_dim)):
        tensors = make_tensors(step, plan.num_rows, num_kv_heads=heads, head_dim=dim, seed=dim)
        out, expected = (each.run(tensors.q, tensors.keys, tensors.values, scale=0.3) for each in (backend, reference))
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@unhurried
@given(step=tree_steps())
def test_what_lies_behind_the_last_token_does_not_count(step: TreeStep) -> None:
    """Pages that are gathered, or read in place, hold more than the tokens that are asked for."""
    plan = build_plan(step.spans, page_size=step.page_size, cost=ALWAYS)
    tensors = make_tensors(step, plan.num_rows, head_dim=16)
    is_used = torch.zeros(step.num_pages * step.page_size, dtype=torch.bool)
    is_used[torch.tensor([slot for slots in step.expected_slots(plan) for slot in slots])] = True
    for cache in (tensors.keys, tensors.values):
        cache.flatten(0, 1)[~is_used] = 1e4
    _assert_equals_reference(plan, tensors, scale=0.3)


@unhurried
@given(step=tree_steps(max_rows=2))
def test_inside_and_outside_of_inference_mode(step: TreeStep) -> None:
    """Memory that is kept between steps has to be writable in both."""
    plan = build_plan(step.spans, page_size=step.page_size, cost=ALWAYS)
    tensors = make_tensors(step, plan.num_rows)
    backend = CPUBackend()
    outputs = []
    for is_inference in (True, False, True):
        with torch.inference_mode(is_inference):
            backend.plan(plan)
            outputs.append(backend.run(tensors.q, tensors.keys, tensors.values, scale=0.3))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


# -- how a plan is cut -----------------------------------------------------------------------------------------------


def _read_by(rounds: list[Round], num_rows: int) -> list[list[int]]:
    """The slots that each row reads, ascending. Also checks that no two parts of a round have a row in common."""
    read: list[list[int]] = [[] for _ in range(num_rows)]
    for index, each in enumerate(rounds):
        seen: list[int] = []
        for unit in each.units:
            slots = (unit.pages[:, None] * each.page_size + np.arange(each.page_size)).reshape(-1)[: unit.num_tokens]
            assert len(slots) == unit.num_tokens
            assert not unit.is_run or (np.diff(unit.pages) == 1).all()
            rows = range(unit.row, unit.row + unit.num_rows)
            seen += rows
            for row in rows:
                read[row] += slots.tolist()
        for causal in each.causals:
            for row in range(len(causal.slots)):
                seen.append(causal.row + row)
                read[causal.row + row] += causal.slots[: row + 1].tolist()
        for band in each.bands:
            for row in range(band.num_rows):
                last = len(band.slots) - band.num_rows + row + 1
                seen.append(band.row + row)
                read[band.row + row] += band.slots[max(0, last - band.window) : last].tolist()
        assert len(set(seen)) == len(seen)
        assert index > 0 or sorted(seen) == list(range(num_rows)), "the first round has all rows"
    return [sorted(slots) for slots in read]


@unhurried
@given(tree_steps(max_rows=20), COSTS, SIZES)
def test_cut_levels_read_what_the_plan_reads(step: TreeStep, cost: CostModel, sizes: CutSizes) -> None:
    plan = build_plan(step.spans, page_size=step.page_size, cost=cost)
    assert _read_by(cut_levels(plan.levels, plan.slots, sizes=sizes), plan.num_rows) == step.expected_slots(plan)


@unhurried
@given(tree_steps(max_rows=20), SIZES, st.integers(1, 60))
def test_cut_windows_read_the_last_tokens(step: TreeStep, sizes: CutSizes, window: int) -> None:
    plan = build_plan(step.spans, page_size=step.page_size, cost=ALWAYS)
    read = _read_by(cut_window(plan.flat, plan.slots, window=window, sizes=sizes), plan.num_rows)
    rows = step.expected_rows(plan)
    assert read == [
        sorted(step.slots[step.paths[index][max(0, position + 1 - window) : position + 1]].tolist())
        for index, position in rows
    ]


# -- how units are called --------------------------------------------------------------------------------------------

SHAPE = HeadShape(2, 2, 8, torch.float32)  # 128 bytes a token


def _make_calls(lengths: list[int], firsts: list[int], *, num_rows: int = 1, is_run: bool = True) -> list[Any]:
    """Calls of sequences of their own, with pages of one token from these first ones on."""
    spans = []
    for first, length in zip(firsts, lengths, strict=True):
        pages = np.arange(first, first + length, dtype=np.int32)
        segment = Segment(OWN, pages if is_run else pages[::-1], 0, length, length)
        spans.append(SequenceSpan(segments=(segment,), begin=length - num_rows, end=length))
    plan = build_plan(spans, page_size=1, cost=NEVER)
    rounds = cut_levels(plan.levels, plan.slots, sizes=SHAPE.sizes)
    work = make_work(rounds, SHAPE, plan.num_rows, Workspace())
    return [call for each in work.rounds for call in each.calls]


def _long() -> int:
    return 2 * SHAPE.sizes.min_run


def test_sequences_at_equal_distances_are_read_in_one_call() -> None:
    (call,) = _make_calls([_long()] * 3, [10, 10_010, 20_010])
    assert isinstance(call, BatchCall)
    assert call.source == Strided(3, 10, 10_000, _long())


def test_long_sequences_at_any_distance_are_read_in_place() -> None:
    (call,) = _make_calls([_long(), _long() + 1], [10, 10_010])
    assert isinstance(call, RunsCall)
    assert call.runs == [(0, 10, _long()), (1, 10_010, _long() + 1)]


def test_short_or_scattered_sequences_are_gathered_together() -> None:
    for lengths, is_run in (([3, 2], True), ([5, 4], False)):
        (call,) = _make_calls(lengths, [50, 100], is_run=is_run)
        assert isinstance(call, BatchCall)
        assert isinstance(call.source, Gather)
        assert call.mask is not None
        assert call.mask.shape == (2, 1, 1, max(lengths))


def test_equal_lengths_need_no_mask() -> None:
    (call,) = _make_calls([4, 4], [50, 100], is_run=False)
    assert isinstance(call, BatchCall)
    assert call.mask is None


def test_a_prompt_and_what_was_there_before_it_are_two_calls_without_a_mask() -> None:
    own, past = _make_calls([_long() + 300], [10], num_rows=300)
    assert own == SequenceCall(0, 300, Run(10 + _long(), 300), None)
    assert past == NodeCall(0, 300, Run(10, _long()))


def test_short_prompts_are_one_call() -> None:
    (call,) = _make_calls([3, 3], [10, 20], num_rows=3)
    assert isinstance(call, CausalBatchCall)
    assert call.kept is None


@pytest.mark.parametrize(("first", "second"), [(1, 4), (60, 64)])
def test_pools_may_be_parts_of_a_larger_tensor(first: int, second: int) -> None:
    """Strided views count from the beginning of the memory, not of the tensor."""
    plan = build_plan(
        [
            SequenceSpan(segments=(Segment(OWN, np.array([page], np.int32), 0, 16, 16),), begin=15, end=16)
            for page in (first, second)
        ],
        page_size=16,
        cost=NEVER,
    )
    memory = torch.randn(2, 70, 16, 2, 8)
    tensors = LayerTensors(torch.randn(2, 4, 8), memory[0], memory[1])
    _assert_equals_reference(plan, tensors, scale=0.3)
