"""Run FlashInfer itself up to the launch, over `cudart_without_gpu.cpp`; started by `test_flashinfer_host_side.py`.

In a graph every replay launches the same kernels with the same arguments, bit by bit. So whatever step is planned for a
shape, what FlashInfer launches for it must be what it launched when the graph was captured; only memory may differ.

    python -m tests.attention.flashinfer_host_side path/of/libcudart.so.13
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from parrot_workers.attention import ALWAYS, NEVER, AttentionPlan, CostModel, build_plan
from parrot_workers.attention.flashinfer import SMALL_TILE, FlashInferBackend
from parrot_workers.attention.flashinfer_graphs import FlashInferGraph, GraphArrays
from parrot_workers.attention.graph_shape import GraphShape, find_shape
from parrot_workers.attention.mixed_level import split_short_entries

from tests.attention.random_steps import Heads, RandomTree

CPU = torch.device("cpu")
COSTS = (ALWAYS, CostModel(node_cost_tokens=100, max_levels=2), NEVER)
EAGER = ((Heads(4, 2, 64), torch.bfloat16), (Heads(32, 8, 128), torch.bfloat16), (Heads(8, 1, 64), torch.float16))
GRAPHS = (Heads(4, 2, 64), Heads(32, 8, 128), Heads(16, 16, 128))
NUM_SEQUENCES = (1, 2, 3, 5, 8, 9, 17, 31, 64, 100, 200, 256, 300, 500)
PAGE_SIZE = 16
NUM_PAGES = 40_000

_empty = torch.empty


def main() -> None:
    runtime = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
    runtime.take_launches.restype = ctypes.c_char_p

    def take() -> list[str]:
        return runtime.take_launches().decode().splitlines()  # type: ignore[no-any-return]

    library = make_library()
    print(json.dumps({**check_eager(library, take), **check_graphs(library, take)}))


def make_library() -> Any:
    """FlashInfer, as far as it runs over host memory; merging looks at the kind of memory before its launch."""
    flashinfer: Any = importlib.import_module("flashinfer")
    prefill: Any = importlib.import_module("flashinfer.prefill")
    prefill.device_support_pdl = lambda device: True
    torch.empty = lambda *sizes, pin_memory=False, **settings: _empty(*sizes, **settings)
    return SimpleNamespace(
        BatchPrefillWithPagedKVCacheWrapper=flashinfer.BatchPrefillWithPagedKVCacheWrapper,
        merge_state_in_place=lambda v, s, v_other, s_other: None,
    )


def make_plan(seed: int, num_sequences: int, *, max_rows: int, max_tokens: int, is_aligned: bool) -> AttentionPlan:
    tree = RandomTree(np.random.default_rng(seed), page_size=PAGE_SIZE, is_aligned=is_aligned, max_tokens=max_tokens)
    spans = tree.spans(num_sequences, max_depth=3, max_rows=max_rows)
    assert tree.num_pages <= NUM_PAGES
    return build_plan(spans, page_size=PAGE_SIZE, cost=COSTS[seed % 3])


def check_eager(library: Any, take: Any) -> dict[str, int]:
    """Each level of each step is planned, and launched once; queries may be a part of a joint projection."""
    backend, num_launches = FlashInferBackend(CPU, library=library), 0
    for seed in range(40):
        max_rows, is_aligned = (1, 40)[seed % 2], seed % 7 != 0
        plan = make_plan(seed, 1 + seed, max_rows=max_rows, max_tokens=200, is_aligned=is_aligned)
        for heads, dtype in EAGER:
            cache = _empty(NUM_PAGES, PAGE_SIZE, heads.num_kv_heads, heads.head_dim, dtype=dtype)
            joint = _empty(plan.num_rows, heads.num_qo_heads + heads.num_kv_heads, heads.head_dim, dtype=dtype)
            backend.plan(plan)
            take()
            backend.run(joint[:, : heads.num_qo_heads], cache, cache, scale=0.1)
            attention = [line for line in take() if "PagedKVCacheKernel" in line]
            max_rows = SMALL_TILE * heads.num_kv_heads // heads.num_qo_heads
            is_split = split_short_entries(plan.levels[-1], max_rows=max_rows) is not None
            assert len(attention) == len(plan.levels) + is_split
            num_launches += len(attention)
    return {"num_eager_launches": num_launches}


def check_graphs(library: Any, take: Any) -> dict[str, int]:
    """Steps of one shape are launched identically, whatever they read."""
    counts: Counter[str] = Counter()
    backend = FlashInferBackend(CPU, library=library)
    arrays = GraphArrays(max_entries=512, max_indices=512 * 128, device=CPU)
    captured: dict[tuple[Heads, GraphShape], tuple[FlashInferGraph, torch.Tensor, list[torch.Tensor], list[str]]] = {}
    for heads in GRAPHS:
        cache = _empty(NUM_PAGES, PAGE_SIZE, heads.num_kv_heads, heads.head_dim, dtype=torch.bfloat16)
        for seed in range(120):
            num_sequences = int(np.random.default_rng(seed).choice(NUM_SEQUENCES))
            max_tokens = (20, 300, 1500)[seed % 3] if num_sequences < 100 else 20
            plan = make_plan(seed, num_sequences, max_rows=1, max_tokens=max_tokens, is_aligned=True)
            shape = find_shape(plan, max_rows=512, page_size=PAGE_SIZE)
            if shape is None:
                continue
            is_new = (heads, shape) not in captured
            if is_new:
                graph = FlashInferGraph(backend, shape, arrays)
                q = _empty(shape.num_rows, heads.num_qo_heads, heads.head_dim, dtype=torch.bfloat16)
                graph.plan(plan)
                graph.run(q, cache, cache, scale=0.1)  # makes the wrappers; it is not captured
                captured[heads, shape] = (graph, q, [], [])
            graph, q, outputs, launches = captured[heads, shape]
            graph.plan(plan)
            take()
            with same_memory(outputs):
                graph.run(q, cache, cache, scale=0.1)
            if is_new:
                launches += take()
            else:
                assert take() == launches, f"{shape} is launched differently"
            counts["num_captured" if is_new else "num_replayed"] += 1
    return dict(counts)


@contextmanager
def same_memory(outputs: list[torch.Tensor]) -> Iterator[None]:
    """Outputs come to lie where they lay the first time, as they do in a graph's pool."""
    before, num = torch.empty, 0

    def empty(*sizes: Any, **settings: Any) -> torch.Tensor:
        nonlocal num
        num += 1
        if num > len(outputs):
            outputs.append(_empty(*sizes, **settings))
        return outputs[num - 1]

    torch.empty = empty
    try:
        yield
    finally:
        torch.empty = before


if __name__ == "__main__":
    main()
