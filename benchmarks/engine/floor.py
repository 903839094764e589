"""How fast could it be at most? The matrix products that a workload cannot do without, at the rate of this machine.

    python -m benchmarks.engine.floor DTYPE THREADS

prints the seconds of all projections of the model for several numbers of rows, as JSON. Each layer has weights of its
own, so that reading them is in it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from benchmarks.engine.model import HEAD_DIM, HIDDEN, INTERMEDIATE, NUM_HEADS, NUM_KV_HEADS, NUM_LAYERS, VOCAB_SIZE
from benchmarks.engine.workloads import TokenIds, stages

__all__ = ["Work", "count_work", "floor_seconds", "measure"]

LAYER = (
    (HIDDEN, (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM),
    (NUM_HEADS * HEAD_DIM, HIDDEN),
    (HIDDEN, 2 * INTERMEDIATE),
    (INTERMEDIATE, HIDDEN),
)
HEAD = (HIDDEN, VOCAB_SIZE)
"""Inputs and outputs of each projection."""

FLOPS_PER_ROW = 2 * NUM_LAYERS * sum(inputs * outputs for inputs, outputs in LAYER)
HEAD_FLOPS = 2 * HIDDEN * VOCAB_SIZE
ATTENTION_FLOPS = 4 * NUM_LAYERS * NUM_HEADS * HEAD_DIM
"""Of one row, for each token that it sees."""

PREFILL_ROWS = 512
ROWS = (1, 16, 32, PREFILL_ROWS)
NUM_TIMES = 5


class Work(NamedTuple):
    """What a workload needs if nothing is computed twice.

    Attributes:
        num_prefill: Prompt tokens, those that prompts share counted once.
        num_logits: Prompts: each needs the logits of its last token.
        steps: Rows of each decode step.
        num_seen: Pairs of a computed token and a token that it sees, itself included.
    """

    num_prefill: int
    num_logits: int
    steps: tuple[int, ...]
    num_seen: int

    @property
    def flops(self) -> float:
        """Operations in all."""
        num_rows = self.num_prefill + sum(self.steps)
        num_logits = self.num_logits + sum(self.steps)
        return num_rows * FLOPS_PER_ROW + num_logits * HEAD_FLOPS + self.num_seen * ATTENTION_FLOPS


def count_work(workload: str) -> Work:
    """Count what one workload needs."""
    known: dict[int, Any] = {}
    num_prefill = num_logits = num_seen = 0
    steps: list[int] = []
    for prompts, num_new in stages(workload):
        for prompt in prompts:
            first = _insert(known, prompt)
            num_prefill += len(prompt) - first
            num_seen += _triangle(len(prompt) + num_new - 1) - _triangle(first)
        num_logits += len(prompts)
        steps += [len(prompts)] * (num_new - 1)
    return Work(num_prefill, num_logits, tuple(steps), num_seen)


def _insert(known: dict[int, Any], prompt: TokenIds) -> int:
    """Add a prompt to the tree of tokens; how many of its first tokens were there."""
    num_known = 0
    for index, token in enumerate(prompt):
        if token in known:
            num_known = index + 1
        known = known.setdefault(token, {})
    return num_known


def _triangle(end: int) -> int:
    """Tokens that the tokens before position `end` see, together."""
    return end * (end + 1) // 2


def floor_seconds(work: Work, seconds: dict[int, float]) -> float:
    """Seconds of that work: prompts and attention at the rate of large products, steps at the rate of their rows."""
    rate = _flops(PREFILL_ROWS) / seconds[PREFILL_ROWS]
    in_steps = sum(map(_flops, work.steps))
    return (work.flops - in_steps) / rate + sum(seconds[rows] for rows in work.steps)


def _flops(num_rows: int) -> float:
    return num_rows * (FLOPS_PER_ROW + HEAD_FLOPS)


def measure(dtype: str, num_threads: int) -> dict[int, float]:
    """Seconds of all projections by number of rows: the fastest of torch's two ways and ours, the least of some."""
    import torch

    torch.set_num_threads(num_threads)
    kind = getattr(torch, dtype)
    weights = [torch.randn(outputs, inputs).to(kind) for inputs, outputs in (*(LAYER * NUM_LAYERS), HEAD)]
    ways = [_plain(weights), _packed(weights), *_ours(weights)]
    inputs = {rows: [torch.randn(rows, weight.shape[1]).to(kind) for weight in weights] for rows in ROWS}
    with torch.inference_mode():
        return {rows: min(_time(way, inputs[rows]) for way in ways) for rows in ROWS}


def _plain(weights: list[Any]) -> list[Callable[[Any], Any]]:
    from torch.nn import functional

    return [partial(functional.linear, weight=weight) for weight in weights]


def _packed(weights: list[Any]) -> list[Callable[[Any], Any]]:
    """With weights in the layout that oneDNN computes with."""
    import torch

    ops = torch.ops.mkldnn

    def run(x: Any, *, weight: Any) -> Any:
        return ops._linear_pointwise(x, weight, None, "none", [], "")

    return [partial(run, weight=ops._reorder_linear_weight(weight, 32)) for weight in weights]


def _ours(weights: list[Any]) -> list[list[Callable[[Any], Any]]]:
    """By the engine's own kernels, if they run here."""
    from parrot_workers.cpu_kernels import load_kernels
    from parrot_workers.models.packed_linear import BlockedLinear

    kernels = load_kernels(weights[0].dtype)
    if kernels is None or not kernels.can_multiply:
        return []
    return [[BlockedLinear(kernels, weight, None) for weight in weights]]


def _time(projections: list[Callable[[Any], Any]], inputs: list[Any]) -> float:
    times = []
    for _ in range(NUM_TIMES + 1):
        start = time.perf_counter()
        for projection, x in zip(projections, inputs, strict=True):
            projection(x)
        times.append(time.perf_counter() - start)
    return min(times[1:])


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
