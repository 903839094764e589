"""The whole engine as it runs on a GPU: FlashInfer's plans, decode steps in graphs, tokens read one step behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from parrot_workers.attention import ALWAYS, NEVER, CostModel
from parrot_workers.attention.flashinfer import FlashInferBackend
from parrot_workers.attention.flashinfer_graphs import FlashInferGraph, GraphArrays
from parrot_workers.config import EngineConfig
from parrot_workers.engine import model_runner
from parrot_workers.engine.assembly import assemble
from parrot_workers.engine.base import Finished, GenerationRequest
from parrot_workers.engine.cuda_graphs import usual_shapes
from parrot_workers.engine.engine import PagedEngine
from parrot_workers.engine.memory import layer_shapes
from parrot_workers.kv_cache import CacheManager
from parrot_workers.kv_cache.pool import KVPool
from parrot_workers.models import LoadedModel, load_model
from parrot_workers.tiny_model import checkpoint_path
from parrot_workers.tiny_model.evaluate import draw_cases

from parrot_mq.types import Sampling
from tests.attention import fake_flashinfer
from tests.workers.tape import TapeRecorder, operators_only

NUM_PAGES = 256
CONFIG = EngineConfig(num_slots=6, cache_tokens=16 * (NUM_PAGES - 1), max_step_tokens=96)
ORACLE = EngineConfig(num_slots=1, cache_tokens=4096, attention="reference", share_prefixes=False, cuda_graphs=False)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    """On a CPU, FlashInfer's contract and a tape stand for library and graph; on a GPU nothing does."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("there is no NVIDIA GPU")
        pytest.importorskip("flashinfer", reason="flashinfer-python is not installed")
    with operators_only() if request.param == "cpu" else nullcontext():
        return load_model(checkpoint_path(), device=request.param, dtype="bfloat16")


def _make_engine(model: LoadedModel, cost: CostModel, monkeypatch: pytest.MonkeyPatch) -> PagedEngine:
    if model.device.type == "cuda":
        return assemble(model, CONFIG, cost_model=cost)
    monkeypatch.setattr(model_runner, "CudaRecorder", lambda device: TapeRecorder())
    pool = KVPool(layer_shapes(model), num_pages=NUM_PAGES, page_size=16, dtype=model.dtype, device=model.device)
    backend = FlashInferBackend(model.device, library=fake_flashinfer.library)
    arrays = GraphArrays(max_entries=64, max_indices=8 * NUM_PAGES, device=model.device)
    runner = model_runner.ModelRunner(
        model,
        pool=pool,
        backend=backend,
        cost_model=cost,
        num_slots=CONFIG.num_slots,
        lookahead=1,
        make_graph_backend=lambda shape: FlashInferGraph(backend, shape, arrays),
    )
    return PagedEngine(model, runner, CacheManager(num_pages=NUM_PAGES, page_size=16), CONFIG)


def _make_requests() -> list[GenerationRequest]:
    """Three documents with several questions each, of different lengths: groups join and leave the batch."""
    documents = [case.prompt for case in draw_cases(1, rows=("get",))[:3]]
    return [
        GenerationRequest(
            key=f"{index}/{question}",
            prompt=f"{document}{'x' * question}",
            sampling=Sampling(max_tokens=5 + 2 * question, ignore_eos=True),
        )
        for index, document in enumerate(documents)
        for question in range(3)
    ]


def _run(engine: PagedEngine, requests: list[GenerationRequest]) -> dict[str, tuple[int, ...]]:
    outputs: dict[str, tuple[int, ...]] = {}
    engine.submit(requests)
    while engine.has_work:
        for event in engine.step():
            if isinstance(event, Finished):
                outputs[event.key] = event.output_ids
        engine.check_integrity()
    return outputs


def _num_graphs(engine: PagedEngine) -> int:
    graphs = engine._runner._graphs
    assert graphs is not None
    return graphs.num_graphs


@pytest.mark.parametrize("cost", [ALWAYS, NEVER], ids=["cascade", "paged"])
def test_outputs_are_those_of_one_request_alone(
    model: LoadedModel, cost: CostModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefill by chunks, decode by replays, padding, prefixes, a step ahead: greedy tokens are the oracle's."""
    engine, requests = _make_engine(model, cost, monkeypatch), _make_requests()
    outputs = _run(engine, requests)
    assert outputs == _run(assemble(model, ORACLE), requests)
    assert _num_graphs(engine) >= 2


def test_warm_up_leaves_nothing_behind(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs that were captured before there was work serve the first requests as well."""
    engine = _make_engine(model, ALWAYS, monkeypatch)
    engine.capture(lambda share: None)
    assert _num_graphs(engine) == len(usual_shapes(CONFIG.num_slots, has_levels=True))
    requests = _make_requests()[:4]
    assert _run(engine, requests) == _run(assemble(model, ORACLE), requests)
