"""Put an engine together: pool, attention, runner, pages."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from parrot_mq.types import Sampling
from parrot_workers.attention import CPU, H200, NEVER, AttentionBackend, CostModel
from parrot_workers.attention.factory import create_backend
from parrot_workers.attention.graph_shape import NODE_BUCKETS, GraphShape, round_up_rows
from parrot_workers.config import EngineConfig
from parrot_workers.engine.base import GenerationRequest
from parrot_workers.engine.engine import PagedEngine
from parrot_workers.engine.memory import choose_num_pages, layer_shapes
from parrot_workers.engine.model_runner import ModelRunner
from parrot_workers.kv_cache import CacheManager
from parrot_workers.kv_cache.pool import KVPool
from parrot_workers.models import LoadedModel
from parrot_workers.models.progress import Report

__all__ = ["assemble", "warm_up"]

_CPU_STEP, _GPU_STEP = 512, 4096  # tokens


def assemble(
    model: LoadedModel,
    config: EngineConfig | None = None,
    *,
    cost_model: CostModel | None = None,
    lookahead: int | None = None,
    now: Callable[[], float] = time.time,
) -> PagedEngine:
    """Make the engine of a loaded model.

    Args:
        model: What to run.
        config: How; the defaults if none.
        cost_model: Which shared prefixes attention reads once; what was measured for the device if none.
        lookahead: Steps that are launched before the tokens of an earlier one are read; 1 on a GPU and 0 on a CPU if
            none.
        now: Seconds since 1970.

    Raises:
        ConfigurationError: The attention that is asked for does not run here.
    """
    is_gpu = model.device.type == "cuda"
    config = _complete(config or EngineConfig(), is_gpu=is_gpu)
    working_bytes = _measure_step(model, config) if is_gpu and not config.cache_tokens else 0
    num_pages = choose_num_pages(model, config, working_bytes=working_bytes)
    if cost_model is None:
        cost_model = H200 if is_gpu else CPU
    runner = _make_runner(model, config, num_pages, cost_model if config.cascade else NEVER, lookahead)
    cache = CacheManager(num_pages=num_pages, page_size=config.page_size, is_sharing=config.share_prefixes)
    return PagedEngine(model, runner, cache, config, now=now)


def _complete(config: EngineConfig, *, is_gpu: bool) -> EngineConfig:
    """Choose what is left to the device."""
    return replace(config, max_step_tokens=config.max_step_tokens or (_GPU_STEP if is_gpu else _CPU_STEP))


def warm_up(engine: PagedEngine, report: Report) -> None:
    """Run through every kind of step once, so that the first task finds everything made and loaded."""
    report("warm up", 0.0)
    request = GenerationRequest(
        key="warm-up", prompt=(0,) * 16, sampling=Sampling(max_tokens=2, ignore_eos=True), salt="warm-up"
    )
    engine.submit([request])
    while engine.has_work:
        engine.step()
    engine.capture(lambda share: report("warm up", share))
    engine.reset()
    report("warm up", 1.0)


def _make_runner(
    model: LoadedModel, config: EngineConfig, num_pages: int, cost_model: CostModel, lookahead: int | None
) -> ModelRunner:
    pool = KVPool(
        layer_shapes(model),
        num_pages=num_pages,
        page_size=config.page_size,
        dtype=model.dtype,
        device=model.device,
    )
    is_gpu = model.device.type == "cuda"
    backend = create_backend(config.attention, device=model.device, dtype=model.dtype, layers=model.layers)
    return ModelRunner(
        model,
        pool=pool,
        backend=backend,
        cost_model=cost_model,
        num_slots=config.num_slots,
        lookahead=int(is_gpu) if lookahead is None else lookahead,
        make_graph_backend=_graph_backends(model, config, backend) if is_gpu and config.cuda_graphs else None,
    )


def _graph_backends(
    model: LoadedModel, config: EngineConfig, backend: AttentionBackend
) -> Callable[[GraphShape], AttentionBackend] | None:
    """Attention for the graphs of each shape; none if the backend cannot be captured."""
    from parrot_workers.attention.flashinfer import FlashInferBackend
    from parrot_workers.attention.flashinfer_graphs import FlashInferGraph, GraphArrays

    if not isinstance(backend, FlashInferBackend):
        return None
    max_rows = round_up_rows(config.num_slots)
    pages_each = -(-model.limit_context(config.max_context_tokens) // config.page_size) + 1
    max_entries = max(max_rows, NODE_BUCKETS[-1])
    arrays = GraphArrays(max_entries=max_entries, max_indices=max_rows * pages_each, device=model.device)
    return lambda shape: FlashInferGraph(backend, shape, arrays)


def _measure_step(model: LoadedModel, config: EngineConfig) -> int:
    """Bytes that the largest step takes on a GPU, found by running one over a small cache."""
    small = replace(config, cache_tokens=config.max_step_tokens + config.page_size, cuda_graphs=False)
    torch.cuda.reset_peak_memory_stats(model.device)
    before = torch.cuda.memory_allocated(model.device)
    engine = assemble(model, small)
    prompt = (0,) * min(config.max_step_tokens, engine.max_context_tokens - 1)
    engine.submit([GenerationRequest(key="measure", prompt=prompt, sampling=Sampling(max_tokens=1))])
    while engine.has_work:
        engine.step()
    return torch.cuda.max_memory_allocated(model.device) - before
