"""The four workloads, as token ids from a fixed seed. The same ids for every engine; each repetition has its own.

This module runs in every engine's environment, so it needs the standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

TokenIds: TypeAlias = list[int]
Generate: TypeAlias = Callable[[list[TokenIds], int], list[TokenIds]]
"""Prompts, and new tokens of each; returns the new tokens in order of the prompts."""

FIRST_ID, END_ID = 256, 8189
"""Half-open range of ids that prompts are drawn from: ordinary tokens of the benchmark's tokenizer."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in stages: a stage may read what the stages before it wrote.

    Attributes:
        name: `w1` to `w4`.
        summary: What it stands for.
        run: Draws the prompts and lets them be generated; returns all outputs in order.
    """

    name: str
    summary: str
    run: Callable[[random.Random, Generate], list[TokenIds]]


def shared_prefix(rng: random.Random, generate: Generate) -> list[TokenIds]:
    """32 requests: 1,024 tokens that are the same for all, 32 of their own, 32 new."""
    prefix = _draw(rng, 1024)
    return generate([prefix + _draw(rng, 32) for _ in range(32)], 32)


def map_reduce(rng: random.Random, generate: Generate) -> list[TokenIds]:
    """16 prompts of 512 tokens, 64 of them a common instruction; then one request over all that they wrote."""
    instruction = _draw(rng, 64)
    parts = generate([instruction + _draw(rng, 448) for _ in range(16)], 64)
    return parts + generate([instruction + [token for part in parts for token in part]], 64)


def chain(rng: random.Random, generate: Generate) -> list[TokenIds]:
    """10 steps, each with 256 tokens of its own and what the step before it wrote; 32 new."""
    outputs: list[TokenIds] = []
    for _ in range(10):
        previous = outputs[-1] if outputs else []
        outputs += generate([_draw(rng, 256) + previous], 32)
    return outputs


def unshared(rng: random.Random, generate: Generate) -> list[TokenIds]:
    """32 prompts of 256 tokens with nothing in common, 32 new each."""
    return generate([_draw(rng, 256) for _ in range(32)], 32)


def _draw(rng: random.Random, num_tokens: int) -> TokenIds:
    return [rng.randrange(FIRST_ID, END_ID) for _ in range(num_tokens)]


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("w1", "32 requests share 1,024 tokens; 32 own, 32 new", shared_prefix),
        Workload("w2", "map-reduce: 16 x 512 tokens, 64 of them shared, 64 new; then one over all outputs", map_reduce),
        Workload("w3", "chain of 10 steps: 256 own tokens and the previous output, 32 new", chain),
        Workload("w4", "32 prompts of 256 tokens, nothing shared, 32 new", unshared),
    )
}


def run_workload(name: str, repetition: int, generate: Generate) -> list[TokenIds]:
    """Run one workload with the ids of that repetition."""
    return WORKLOADS[name].run(random.Random(f"{name}/{repetition}"), generate)


def warm_up(generate: Generate) -> None:
    """Meet every kind of step once, with ids that no repetition uses."""
    rng = random.Random("warm-up")
    prefix = _draw(rng, 256)
    generate([prefix + _draw(rng, 32) for _ in range(8)], 4)
    generate([_draw(rng, 256)], 4)


def common_prefix(prompts: list[TokenIds]) -> TokenIds:
    """Tokens that all prompts begin with; the last one of the shortest prompt is never among them."""
    first, last = min(prompts), max(prompts)
    limit = min(map(len, prompts)) - 1
    return first[: next((i for i in range(limit) if first[i] != last[i]), limit)]


def stages(name: str) -> list[tuple[list[TokenIds], int]]:
    """Prompts and new tokens of each stage, with made-up outputs: enough to count the work."""
    result: list[tuple[list[TokenIds], int]] = []

    def record(prompts: list[TokenIds], num_new: int) -> list[TokenIds]:
        result.append((prompts, num_new))
        return [[FIRST_ID] * num_new for _ in prompts]

    run_workload(name, 0, record)
    return result
