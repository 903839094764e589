"""Decode graphs: the same logits and the same cache as kernel by kernel, whatever the batch does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from parrot_workers.attention import ALWAYS, NEVER, AttentionBackend, AttentionPlan, CostModel, SequenceSpan, build_plan
from parrot_workers.attention.flashinfer import FlashInferBackend
from parrot_workers.attention.flashinfer_graphs import FlashInferGraph, GraphArrays
from parrot_workers.attention.graph_shape import GraphShape
from parrot_workers.engine.cuda_graphs import CudaRecorder, DecodeGraphs, Recorder, usual_shapes
from parrot_workers.kv_cache import OWN, Segment
from parrot_workers.kv_cache.pool import KVPool, LayerShape
from parrot_workers.models import ForwardContext, LayerSpec, LoadedModel, forward, load_model
from parrot_workers.models.paged import use_paged_attention
from transformers import GemmaConfig, LlamaConfig, Qwen3Config

from tests.attention import fake_flashinfer
from tests.workers.checkpoints import FAMILIES
from tests.workers.tape import TapeRecorder, operators_only

PAGE_SIZE = 4


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """A CPU, where FlashInfer's contract and a tape stand for library and graph; a GPU, where nothing does."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("there is no NVIDIA GPU")
        pytest.importorskip("flashinfer", reason="flashinfer-python is not installed")
    return torch.device(request.param)


def _make_model(device: torch.device, config_class: Any = LlamaConfig, **settings: Any) -> LoadedModel:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 61, "head_dim": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    config = config_class(**{**sizes, **heads, **settings})
    make: Any = AutoModelForCausalLM.from_config
    model = make(config, dtype=torch.bfloat16).to(device).eval()
    use_paged_attention(model)
    spec = LayerSpec(num_qo_heads=4, num_kv_heads=2, head_dim=64, window=None, softcap=None, scale=0.125)
    layers = (spec, replace(spec, window=settings.get("sliding_window")))
    loaded = SimpleNamespace(model=model, short_pass=None, layers=layers, dtype=model.dtype, device=device)
    return cast(LoadedModel, loaded)


class Batch:
    """Sequences that decode: two groups with a common prefix each, over a pool of random keys and values."""

    def __init__(self, model: LoadedModel, *, seed: int = 0) -> None:
        self.model = model
        layers = [LayerShape(layer.num_kv_heads, layer.head_dim) for layer in model.layers]
        self.pool = KVPool(layers, num_pages=200, page_size=PAGE_SIZE, dtype=model.dtype, device=model.device)
        generator = torch.Generator(model.device).manual_seed(seed)
        for layer in range(len(layers)):
            self.pool.keys(layer).normal_(generator=generator)
            self.pool.values(layer).normal_(generator=generator)
        self.segments: list[list[Segment]] = []
        self._num_pages = 1

    def add(self, group: int, num_tokens: int) -> None:
        """A sequence of a group, with so many tokens of its own."""
        shared = Segment(group, np.arange(3, dtype=np.int32) + 1 + 3 * group, 0, 3 * PAGE_SIZE, 3 * PAGE_SIZE)
        pages = np.arange(8, dtype=np.int32) + 20 + 8 * len(self.segments)
        self.segments.append([shared, Segment(OWN, pages, 3 * PAGE_SIZE, num_tokens, num_tokens)])

    def spans(self, num_rows: int = 1) -> list[SequenceSpan]:
        """The next tokens of all sequences."""
        ends = [path[-1].start + path[-1].num_tokens for path in self.segments]
        return [
            SequenceSpan(segments=tuple(path), begin=end - num_rows, end=end)
            for path, end in zip(self.segments, ends, strict=True)
        ]

    def advance(self) -> None:
        """All sequences get one more token."""
        self.segments = [[path[0], path[1]._replace(num_tokens=path[1].num_tokens + 1)] for path in self.segments]

    def forward(
        self, input_ids: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor, backend: AttentionBackend
    ) -> torch.Tensor:
        context = ForwardContext(pool=self.pool, backend=backend, slots=slots)
        return forward(self.model, input_ids, positions, cast(Any, slice(None)), context)


class World:
    """The same batch twice: once run by graphs, once kernel by kernel."""

    def __init__(self, model: LoadedModel, *, cost: CostModel, min_uses: int = 1) -> None:
        self.graphed, self.eager = Batch(model), Batch(model)
        is_gpu = model.device.type == "cuda"
        self.backend = FlashInferBackend(model.device, library=None if is_gpu else fake_flashinfer.library)
        recorder: Recorder = CudaRecorder(model.device) if is_gpu else TapeRecorder()
        self.cost = cost
        arrays = GraphArrays(max_entries=64, max_indices=16 * 16, device=model.device)
        self.graphs = DecodeGraphs(
            self.graphed.forward,
            lambda shape: FlashInferGraph(self.backend, shape, arrays),
            recorder,
            device=model.device,
            max_rows=16,
            page_size=PAGE_SIZE,
            min_uses=min_uses,
        )

    def both(self, act: Callable[[Batch], None]) -> None:
        act(self.graphed)
        act(self.eager)

    @torch.inference_mode()
    def step(self, seed: int, *, num_rows: int = 1) -> bool:
        """Run a step both ways and compare; returns whether there was a graph."""
        plan = build_plan(self.eager.spans(num_rows), page_size=PAGE_SIZE, cost=self.cost)
        inputs = self._inputs(plan, seed)
        logits = self.graphs.run(plan, *inputs)
        self.backend.plan(plan)
        expected = self.eager.forward(*inputs, self.backend)
        if logits is None:
            self.graphed.forward(*inputs, self.backend)
        else:
            assert logits.shape == expected.shape
            torch.testing.assert_close(logits, expected, atol=0.03, rtol=0.03)
        self._assert_same_cache()
        self.both(Batch.advance)
        return logits is not None

    def _inputs(self, plan: AttentionPlan, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        input_ids = torch.randint(61, (plan.num_rows,), generator=torch.Generator().manual_seed(seed))
        inputs = (input_ids, torch.from_numpy(plan.positions), torch.from_numpy(plan.slots))
        first, second, third = (one.to(self.backend.device) for one in inputs)
        return first, second, third

    def _assert_same_cache(self) -> None:
        for layer in range(2):
            for one, other in zip(self._caches(self.graphed, layer), self._caches(self.eager, layer), strict=True):
                torch.testing.assert_close(one, other, atol=0.03, rtol=0.03)

    def _caches(self, batch: Batch, layer: int) -> list[torch.Tensor]:
        """Keys and values but for the dummy page, where padding rows write."""
        return [batch.pool.keys(layer)[1:], batch.pool.values(layer)[1:]]


@pytest.mark.parametrize("cost", [ALWAYS, NEVER], ids=["levels", "flat"])
def test_replays_give_what_single_kernels_give(device: torch.device, cost: CostModel) -> None:
    """Sequences grow over page boundaries, and join: the graphs of two shapes serve all steps."""
    world = World(_make_model(device), cost=cost)
    for num_tokens in (3, 5, 7):
        world.both(lambda batch: batch.add(0, num_tokens))  # noqa: B023
    for seed in range(6):
        assert world.step(seed)
    world.both(lambda batch: batch.add(1, 2))
    world.both(lambda batch: batch.add(1, 9))
    for seed in range(6, 12):
        assert world.step(seed)
    assert world.graphs.num_graphs == 2


@pytest.mark.parametrize(
    ("config_class", "settings"),
    [
        (Qwen3Config, {}),
        (GemmaConfig, {}),
        (LlamaConfig, {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    ],
    ids=["qwen3", "gemma", "linear-rope"],
)
def test_model_families_can_be_captured(device: torch.device, config_class: Any, settings: dict[str, Any]) -> None:
    """Their forward pass waits for nothing and decides nothing by what a tensor holds."""
    world = World(_make_model(device, config_class, **settings), cost=ALWAYS)
    for group in (0, 0, 1):
        world.both(lambda batch: batch.add(group, 4))  # noqa: B023
    assert all(world.step(seed) for seed in range(3))


@pytest.mark.parametrize("family", FAMILIES)
def test_families_wait_for_nothing(
    checkpoint: Callable[[str], Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every family that is served can be captured, with lean layers where it has them. CPU: its heads are tiny.

    GPT-2 looks for padding in its input each time, which waits for the device; it runs without graphs.
    """
    monkeypatch.setattr("parrot_workers.attention.flashinfer.check_layer", lambda **layer: None)
    with operators_only():
        world = World(load_model(checkpoint(family)), cost=ALWAYS)
    for group in (0, 0, 1):
        world.both(lambda batch: batch.add(group, 14))  # noqa: B023
    assert {world.step(seed) for seed in range(3)} == {family != "gpt2"}


def test_windowed_layers_read_flat_in_graphs(device: torch.device) -> None:
    from transformers import Qwen2Config

    settings = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
    world = World(_make_model(device, Qwen2Config, **settings), cost=ALWAYS)
    assert [layer.window for layer in world.eager.model.layers] == [None, 6]
    for group in (0, 0, 1):
        world.both(lambda batch: batch.add(group, 4))  # noqa: B023
    assert all(world.step(seed) for seed in range(4))


def test_prefill_and_large_batches_are_left_to_others(device: torch.device) -> None:
    world = World(_make_model(device), cost=NEVER)
    for _ in range(17):
        world.both(lambda batch: batch.add(0, 4))
    assert not world.step(0)
    world.both(lambda batch: batch.segments.__delitem__(slice(3, None)))
    assert not world.step(1, num_rows=2)
    assert world.step(2)


def test_a_shape_is_captured_when_it_returns(device: torch.device) -> None:
    world = World(_make_model(device), cost=NEVER, min_uses=3)
    world.both(lambda batch: batch.add(0, 4))
    assert [world.step(seed) for seed in range(4)] == [False, False, True, True]


def test_warm_up_captures_the_largest_first_and_needs_no_work(device: torch.device) -> None:
    """Afterwards steps of these shapes replay at once; the cache of real tokens was not touched."""
    world = World(_make_model(device), cost=ALWAYS, min_uses=99)
    shapes = usual_shapes(4, has_levels=True)
    assert shapes == [GraphShape(1), GraphShape(2), GraphShape(4), GraphShape(4, (2,)), GraphShape(4, (8,))]
    shares: list[float] = []
    before = [cache.clone() for cache in world._caches(world.graphed, 0)]
    world.graphs.warm_up(shapes, shares.append)
    assert world.graphs.num_graphs == 5
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert all(map(torch.equal, before, world._caches(world.graphed, 0)))
    for group in (0, 0, 1):
        world.both(lambda batch: batch.add(group, 6))  # noqa: B023
    assert all(world.step(seed) for seed in range(3))
    assert world.graphs.num_graphs == 5


def test_graphs_can_be_captured_at_any_time(device: torch.device) -> None:
    """Before a step, between steps, in the mode in which models run and out of it."""
    world = World(_make_model(device), cost=NEVER)
    world.both(lambda batch: batch.add(0, 4))
    assert world.step(0)
    world.graphs.warm_up([GraphShape(2)])
    world.both(lambda batch: batch.add(0, 4))
    assert world.step(1)
    assert world.graphs.num_graphs == 2


def test_there_are_no_more_graphs_than_fit(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parrot_workers.engine.cuda_graphs.MAX_GRAPHS", 1)
    world = World(_make_model(device), cost=NEVER)
    world.both(lambda batch: batch.add(0, 4))
    assert world.step(0)
    world.both(lambda batch: batch.add(0, 4))
    assert not world.step(1)
    world.both(lambda batch: batch.segments.__delitem__(0))
    assert world.step(2)


def test_a_model_that_waits_for_the_device_runs_without_graphs(device: torch.device) -> None:
    """A capture that fails is told once; every step is left to single kernels from then on."""
    world = World(_make_model(device), cost=NEVER)
    world.both(lambda batch: batch.add(0, 4))
    can_run = world.graphed.forward

    def waiting(input_ids: torch.Tensor, *others: Any) -> torch.Tensor:
        int(input_ids.max())
        return can_run(input_ids, *others)

    world.graphs._forward = waiting
    assert [world.step(seed) for seed in range(3)] == [False] * 3
    assert world.graphs.num_graphs == 0
