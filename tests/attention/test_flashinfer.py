"""The FlashInfer backend, with the library's contract on a CPU and with the library itself on a GPU."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from parrot_workers.attention import ALWAYS, NEVER, AttentionPlan, CostModel, SequenceSpan, build_plan
from parrot_workers.attention.flashinfer import SHORT_PLACE, FlashInferBackend, check_layer
from parrot_workers.attention.flashinfer_graphs import FlashInferGraph, GraphArrays
from parrot_workers.attention.graph_shape import GraphShape, find_shape
from parrot_workers.attention.level import Entry, Piece, make_level
from parrot_workers.attention.mixed_level import split_short_entries
from parrot_workers.engine.cuda_graphs import CudaRecorder, Recorder

from parrot_mq.errors import ConfigurationError
from tests.attention import fake_flashinfer
from tests.attention.random_steps import Heads, RandomTree, attend_densely, random_pool, random_queries
from tests.workers.tape import TapeRecorder

CPU = torch.device("cpu")
PAGE_SIZE = 4
HEADS = Heads()
SOME_LEVELS = CostModel(node_cost_tokens=20, max_levels=2)
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 3e-3}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _make_step(
    seed: int,
    *,
    cost: CostModel,
    num_sequences: int = 9,
    max_rows: int = 1,
    page_size: int = 4,
    is_aligned: bool = True,
) -> tuple[AttentionPlan, list[SequenceSpan], int]:
    """A plan, its spans in packed order, and the number of pages that they use."""
    tree = RandomTree(np.random.default_rng(seed), page_size=page_size, is_aligned=is_aligned, max_tokens=30)
    spans = tree.spans(num_sequences, max_depth=3, max_rows=max_rows)
    plan = build_plan(spans, page_size=page_size, cost=cost)
    return plan, [spans[index] for index in plan.order], tree.num_pages


def _assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    error = (actual.float() - expected.float()).norm() / expected.float().norm()
    assert error < TOLERANCE[actual.dtype], f"relative error {error:.2e}"


def _assert_attends(
    backend: FlashInferBackend,
    spans: list[SequenceSpan],
    num_pages: int,
    *,
    heads: Heads = HEADS,
    dtype: torch.dtype = torch.bfloat16,
    num_padding: int = 0,
    seed: int = 0,
    **layer: Any,
) -> None:
    """The backend, planned already, gives what dense attention gives."""
    num_rows = sum(span.end - span.begin for span in spans)
    pool = random_pool(num_pages, PAGE_SIZE, heads, seed=seed, dtype=dtype, device=backend.device.type)
    q = random_queries(num_rows + num_padding, heads, seed=seed, dtype=dtype, device=backend.device.type)
    layer = {"scale": heads.head_dim**-0.5, **layer}
    out = backend.run(q, *pool, **layer)
    assert torch.isfinite(out).all()
    _assert_near(out[:num_rows], attend_densely(spans, q[:num_rows], *pool, **layer))


@pytest.fixture
def fake() -> FlashInferBackend:
    """The backend over the library's contract."""
    return FlashInferBackend(CPU, library=fake_flashinfer.library)


@pytest.fixture(params=["fake", pytest.param("gpu", marks=pytest.mark.gpu)])
def backend(request: pytest.FixtureRequest) -> FlashInferBackend:
    """The backend over the library's contract, and over the library."""
    if request.param == "fake":
        return FlashInferBackend(CPU, library=fake_flashinfer.library)
    if not torch.cuda.is_available():
        pytest.skip("there is no NVIDIA GPU")
    pytest.importorskip("flashinfer", reason="flashinfer-python is not installed")
    return FlashInferBackend(torch.device("cuda"))


@pytest.mark.parametrize("cost", [ALWAYS, SOME_LEVELS, NEVER], ids=["always", "some", "never"])
@pytest.mark.parametrize("is_aligned", [True, False], ids=["whole-pages", "inside-pages"])
@pytest.mark.parametrize("max_rows", [1, 12, 60], ids=["decode", "chunks", "prompts"])
@pytest.mark.parametrize("seed", range(4))
def test_levels_give_what_dense_attention_gives(
    backend: FlashInferBackend, seed: int, cost: CostModel, is_aligned: bool, max_rows: int
) -> None:
    """Index arrays, causal alignment, merging to base 2, and pages of one token, on random trees."""
    plan, spans, num_pages = _make_step(seed, cost=cost, max_rows=max_rows, is_aligned=is_aligned)
    backend.plan(plan)
    _assert_attends(backend, spans, num_pages, seed=seed)


@pytest.mark.parametrize("cost", [ALWAYS, NEVER], ids=["levels", "flat"])
@pytest.mark.parametrize("window", [None, 9])
def test_outputs_beside_a_prompt_are_run_apart(backend: FlashInferBackend, cost: CostModel, window: int | None) -> None:
    """A long chunk does not decide how the keys of sequences with one new token are cut."""
    plan, spans, num_pages = _make_step(4, cost=cost, num_sequences=12)
    long = max(spans, key=lambda span: span.end)
    spans = [replace(span, begin=0) if span is long else span for span in spans]
    assert long.end > 40
    plan = build_plan(spans, page_size=PAGE_SIZE, cost=cost)
    backend.plan(plan)
    _assert_attends(backend, [spans[index] for index in plan.order], num_pages, window=window)
    assert sorted(place for _, place in backend.wrappers)[:2] == [SHORT_PLACE, 0]


@pytest.mark.parametrize("seed", range(5))
def test_short_entries_are_those_of_few_rows(seed: int) -> None:
    """Both parts together read what the level reads; the short part is short, and the long part leaves it out."""
    rng = np.random.default_rng(seed)
    entries = [
        Entry(int(num_rows), (Piece(rng.integers(1, 99, 9, dtype=np.int32), int(rng.integers(1, 36))),))
        for num_rows in rng.choice([1, 2, 3, 50], size=10)
    ]
    level = make_level(entries, page_size=PAGE_SIZE)
    mixed = split_short_entries(level, max_rows=2)
    assert mixed is not None
    is_short = np.diff(level.qo_indptr) <= 2
    assert mixed.long.kv_lens.tolist() == np.where(is_short, 0, level.kv_lens).tolist()
    assert mixed.short.kv_lens.tolist() == level.kv_lens[is_short].tolist()
    assert len(mixed.long.kv_indices) + len(mixed.short.kv_indices) == len(level.kv_indices)
    assert len(mixed.rows) == mixed.short.qo_indptr[-1] == np.diff(level.qo_indptr)[is_short].sum()
    assert split_short_entries(mixed.short, max_rows=2) is None
    assert split_short_entries(level, max_rows=50) is None


@pytest.mark.parametrize("heads", [Heads(2, 2), Heads(4, 1, 128), Heads(8, 1), Heads(12, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_heads_are_grouped_as_the_pool_has_them(backend: FlashInferBackend, heads: Heads, dtype: torch.dtype) -> None:
    plan, spans, num_pages = _make_step(1, cost=ALWAYS, max_rows=3)
    backend.plan(plan)
    _assert_attends(backend, spans, num_pages, heads=heads, dtype=dtype)


@pytest.mark.parametrize("window", [1, 3, 4, 5, 1000])
@pytest.mark.parametrize("is_aligned", [True, False], ids=["whole-pages", "inside-pages"])
def test_a_window_is_counted_over_the_whole_path(backend: FlashInferBackend, window: int, is_aligned: bool) -> None:
    """Layers with a window take the flat level, whatever levels there are; others in the same step keep theirs."""
    plan, spans, num_pages = _make_step(2, cost=ALWAYS, max_rows=6, is_aligned=is_aligned)
    backend.plan(plan)
    _assert_attends(backend, spans, num_pages, window=window)
    _assert_attends(backend, spans, num_pages)


def test_scores_are_scaled_and_capped(backend: FlashInferBackend) -> None:
    plan, spans, num_pages = _make_step(2, cost=ALWAYS, max_rows=6)
    backend.plan(plan)
    _assert_attends(backend, spans, num_pages, scale=0.3)
    _assert_attends(backend, spans, num_pages, softcap=2.0)


def test_window_and_cap_go_together(fake: FlashInferBackend) -> None:
    plan, spans, num_pages = _make_step(2, cost=ALWAYS, max_rows=6)
    fake.plan(plan)
    _assert_attends(fake, spans, num_pages, scale=0.3, softcap=2.0, window=5)


def test_layers_of_one_kind_share_a_plan(fake: FlashInferBackend) -> None:
    """FlashInfer plans once per kind of layer, level and step; its wrappers live on from step to step."""
    for seed in (3, 4):
        plan, spans, num_pages = _make_step(seed, cost=SOME_LEVELS)
        fake.plan(plan)
        for layer in range(3):
            _assert_attends(fake, spans, num_pages, seed=layer)
            _assert_attends(fake, spans, num_pages, seed=layer, window=5)
    assert {kind.window for kind, _ in fake.wrappers} == {None, 5}
    assert max(wrapper.num_plans for wrapper in fake.wrappers.values()) == 2


def test_a_step_takes_back_nothing_of_the_step_before(backend: FlashInferBackend) -> None:
    """Levels that a step does not have are not run, though wrappers for them are there."""
    for cost in (ALWAYS, NEVER, SOME_LEVELS):
        plan, spans, num_pages = _make_step(5, cost=cost)
        backend.plan(plan)
        _assert_attends(backend, spans, num_pages)


def test_too_many_heads_to_merge_read_flat(backend: FlashInferBackend) -> None:
    plan, spans, num_pages = _make_step(6, cost=ALWAYS)
    backend.plan(plan)
    _assert_attends(backend, spans, num_pages, heads=Heads(136, 34))
    assert len(backend.wrappers) == 1


@pytest.mark.parametrize(
    ("problem", "setting"),
    [
        ({"dtype": torch.float32}, "dtype"),
        ({"head_dim": 80}, "attention"),
        ({"num_qo_heads": 5}, "attention"),
    ],
)
def test_layers_without_a_kernel_are_refused(problem: dict[str, Any], setting: str) -> None:
    layer: dict[str, Any] = {"num_qo_heads": 4, "num_kv_heads": 2, "head_dim": 64, "dtype": torch.bfloat16}
    check_layer(**layer)
    with pytest.raises(ConfigurationError) as caught:
        check_layer(**layer | problem)
    assert caught.value.facts["setting"] == setting


# -- fixed shapes ------------------------------------------------------------------------------------------------------


def _make_arrays(backend: FlashInferBackend) -> GraphArrays:
    return GraphArrays(max_entries=64, max_indices=64 * 40, device=backend.device)


@pytest.mark.parametrize("num_sequences", [1, 2, 3, 5, 8, 9, 15, 17, 24])
@pytest.mark.parametrize("cost", [ALWAYS, SOME_LEVELS, NEVER], ids=["always", "some", "never"])
def test_padding_changes_nothing(backend: FlashInferBackend, num_sequences: int, cost: CostModel) -> None:
    """Dummy rows and empty nodes of a graph's shape: the rows of the step give what they give without."""
    plan, spans, num_pages = _make_step(num_sequences, cost=cost, num_sequences=num_sequences)
    shape = find_shape(plan, max_rows=64, page_size=PAGE_SIZE)
    assert shape is not None
    graph = FlashInferGraph(backend, shape, _make_arrays(backend))
    graph.plan(plan)
    num_padding = shape.num_rows - num_sequences
    _assert_attends(graph, spans, num_pages, num_padding=num_padding)
    _assert_attends(graph, spans, num_pages, num_padding=num_padding, window=7)


def test_a_larger_shape_takes_any_smaller_plan(backend: FlashInferBackend) -> None:
    """One graph serves steps with fewer rows and nodes, and with longer and shorter keys, one after the other."""
    graph = FlashInferGraph(backend, GraphShape(24, (64, 64, 64)), _make_arrays(backend))
    num_served = 0
    for seed in range(40):
        plan, spans, num_pages = _make_step(seed, cost=ALWAYS, num_sequences=1 + seed % 24)
        if len(plan.levels) == 4:
            graph.plan(plan)
            _assert_attends(graph, spans, num_pages, num_padding=24 - len(spans), seed=seed)
            num_served += 1
    assert num_served > 10


def test_graphs_share_arrays_but_not_plans(backend: FlashInferBackend) -> None:
    """Several shapes are made over the same arrays; each plan fills them anew, so any order of steps is right."""
    arrays = _make_arrays(backend)
    graphs: dict[GraphShape, FlashInferGraph] = {}
    for seed in (1, 2, 3, 1, 3, 2, 2, 1):
        plan, spans, num_pages = _make_step(seed, cost=SOME_LEVELS, num_sequences=4 * seed)
        shape = find_shape(plan, max_rows=64, page_size=PAGE_SIZE)
        assert shape is not None
        graph = graphs.setdefault(shape, FlashInferGraph(backend, shape, arrays))
        graph.plan(plan)
        _assert_attends(graph, spans, num_pages, num_padding=shape.num_rows - len(spans), seed=seed)
    assert len(graphs) > 1


def test_a_graph_gets_the_workspace_that_it_needs(fake: FlashInferBackend) -> None:
    """FlashInfer is asked in graph mode, where padding needs memory too; larger memory serves what comes later."""
    fake.workspace.buffer = torch.empty(0, dtype=torch.uint8)
    plan, spans, num_pages = _make_step(8, cost=SOME_LEVELS)
    graph = FlashInferGraph(fake, GraphShape(16, (8,) * (len(plan.levels) - 1)), _make_arrays(fake))
    graph.plan(plan)
    _assert_attends(graph, spans, num_pages, num_padding=7)
    assert all(wrapper.schedule is not None for wrapper in graph.wrappers.values())
    sizes = [wrapper.workspace.numel() for wrapper in graph.wrappers.values()]
    assert min(sizes) > 0
    assert fake.workspace.buffer.numel() == max(sizes)


@pytest.mark.parametrize("cost", [ALWAYS, NEVER], ids=["levels", "flat"])
def test_a_replay_reads_the_newest_plan(backend: FlashInferBackend, cost: CostModel) -> None:
    """What was captured for one step gives the result of another that was planned since."""
    recorder: Recorder = TapeRecorder() if backend.device.type == "cpu" else CudaRecorder(backend.device)
    steps = [_make_step(seed, cost=cost, num_sequences=num) for seed, num in ((1, 9), (7, 14), (9, 12))]
    steps = [step for step in steps if len(step[0].levels) == len(steps[0][0].levels)]
    graph = FlashInferGraph(backend, GraphShape(16, (64,) * (len(steps[0][0].levels) - 1)), _make_arrays(backend))
    num_pages = max(step[2] for step in steps)
    pool = random_pool(num_pages, PAGE_SIZE, Heads(), seed=0, dtype=torch.bfloat16, device=backend.device.type)
    q = random_queries(16, Heads(), seed=0, dtype=torch.bfloat16, device=backend.device.type)
    out = torch.zeros_like(q)

    def attend() -> None:
        out.copy_(graph.run(q, *pool, scale=0.125))

    graph.plan(steps[0][0])
    replay = recorder.record(attend)
    for plan, spans, _ in steps:
        graph.plan(plan)
        replay()
        _assert_near(out[: len(spans)], attend_densely(spans, q[: len(spans)], *pool, scale=0.125))
    assert len(steps) > 1


def test_the_fake_takes_what_flashinfer_takes() -> None:
    """Each argument that the fake knows is one of the real function."""
    real = pytest.importorskip("flashinfer", reason="flashinfer-python is not installed")
    for name in ("__init__", "plan", "run", "reset_workspace_buffer"):
        fake_one = getattr(fake_flashinfer.BatchPrefillWithPagedKVCacheWrapper, name)
        real_one = getattr(real.BatchPrefillWithPagedKVCacheWrapper, name)
        assert set(inspect.signature(fake_one).parameters) <= set(inspect.signature(real_one).parameters)
    assert hasattr(real.BatchPrefillWithPagedKVCacheWrapper, "workspace_size")
    fake_merge = inspect.signature(fake_flashinfer.merge_state_in_place)
    assert set(fake_merge.parameters) == set(inspect.signature(real.merge_state_in_place).parameters)
