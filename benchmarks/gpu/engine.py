"""How fast is the engine? 8 B parameters of random weights, by batch size, with and without a shared prefix.

Each case is also held against a floor: the time in which the GPU could read the weights once, and the keys and values
that the step attends to, at the rate at which it copies; or do the arithmetic, if that takes longer.
"""

from __future__ import annotations

import cProfile
import gc
import io
import pstats
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from parrot_workers.config import EngineConfig
from parrot_workers.engine.assembly import assemble
from parrot_workers.engine.engine import PagedEngine
from parrot_workers.models import LoadedModel

from benchmarks.gpu.driving import Run, make_requests, run_batch
from benchmarks.gpu.model import DEVICE, GPU_ATTENTION, IS_REHEARSAL, Shape, main_shape, make_loaded, synchronize
from benchmarks.gpu.stage import Deadline, tell, timed

COPY_BYTES_PER_S: Final = 4.3e12
MATMUL_FLOP_PER_S: Final = 7.9e14
"""Of an H200, as the stage `versions` measures them."""

PROMPT: Final = 64 if IS_REHEARSAL else 2048
SHARED: Final = PROMPT * 15 // 16
NUM_NEW: Final = 8 if IS_REHEARSAL else 64
CACHE_TOKENS: Final = 260 * (PROMPT + NUM_NEW + 32)


@dataclass(frozen=True, slots=True)
class Case:
    """A batch.

    Attributes:
        num_requests: Each of PROMPT tokens, and NUM_NEW to generate.
        num_shared: Leading tokens that all have in common.
        needs_s: Seconds that are enough for it, as far as one can tell.
    """

    num_requests: int
    num_shared: int
    needs_s: float


SHARED_256: Final = Case(256, SHARED, 14)
UNSHARED_32: Final = Case(32, 0, 10)
PASSES: Final[tuple[tuple[str, dict[str, Any], tuple[Case, ...]], ...]] = (
    (
        "graphs",
        {},
        (
            SHARED_256,
            UNSHARED_32,
            Case(1, 0, 4),
            Case(32, SHARED, 6),
            Case(128, SHARED, 8),
            Case(128, 0, 20),
        ),
    ),
    ("graphs, no cascade", {"cascade": False}, (SHARED_256,)),
    ("eager", {"cuda_graphs": False}, (SHARED_256, UNSHARED_32, Case(1, 0, 6))),
    ("graphs", {}, (Case(256, 0, 40),)),
)
"""Name, settings of the engine, cases: the most wanted ones first."""


def main() -> None:
    deadline = Deadline()
    shape = main_shape()
    seconds, model = timed(lambda: make_loaded(shape))
    tell("model", name=shape.name, num_parameters=model.num_parameters, seconds=seconds)
    with quiet_memory():
        warm_up(model)
    for index, (name, settings, cases) in enumerate(PASSES):
        with quiet_memory(), timed_engine(model, name, settings) as engine:
            for case in cases:
                if deadline.allows(case.needs_s, f"{name}: {case}"):
                    measure(engine, name, case, shape, model)
            if index == 0 and deadline.allows(25, "profiles"):
                profile(engine)


def warm_up(model: LoadedModel) -> None:
    """Load kernels and libraries, so that no case pays for them."""
    engine = make_engine(model, {"cuda_graphs": False})
    run_batch(engine, make_requests(make_prompts(Case(4, SHARED, 0)), num_new=4))


def measure(engine: PagedEngine, name: str, case: Case, shape: Shape, model: LoadedModel) -> None:
    """Run one case and tell what came of it. A salt of its own keeps what other cases left in the cache away."""
    prompts = make_prompts(case)
    run = run_batch(engine, make_requests(prompts, num_new=NUM_NEW, salt=f"{name}{case}"))
    floor_s = decode_floor_s(case, run, shape, model)
    tell(
        "engine",
        way=name,
        num_requests=case.num_requests,
        num_shared=case.num_shared,
        num_prompt=PROMPT,
        num_new=NUM_NEW,
        floor_ms=1e3 * floor_s,
        share_of_floor=floor_s / run.step_s,
        **run.facts,
    )


def make_prompts(case: Case) -> list[list[int]]:
    """Random tokens from a fixed seed."""
    rng = random.Random(f"{case}")
    vocab = main_shape().settings["vocab_size"]
    prefix = [rng.randrange(vocab) for _ in range(case.num_shared)]
    return [prefix + [rng.randrange(vocab) for _ in range(PROMPT - case.num_shared)] for _ in range(case.num_requests)]


def decode_floor_s(case: Case, run: Run, shape: Shape, model: LoadedModel) -> float:
    """The time in which a decode step could be done if nothing but memory or arithmetic limited it."""
    embedding: int = shape.settings["vocab_size"] * shape.settings["hidden_size"]
    num_used = model.num_parameters - embedding  # of the embedding a step reads a row for each token
    own_tokens = PROMPT - case.num_shared + NUM_NEW / 2
    num_read = case.num_shared + case.num_requests * own_tokens
    weights_s = max(2 * num_used / COPY_BYTES_PER_S, 2 * num_used * case.num_requests / MATMUL_FLOP_PER_S)
    return weights_s + num_read * shape.kv_bytes_per_token / COPY_BYTES_PER_S


def make_engine(model: LoadedModel, settings: dict[str, Any]) -> PagedEngine:
    """An engine with room for the largest case."""
    defaults = {"num_slots": 256, "max_step_tokens": 8192, "max_context_tokens": 4096, "cache_tokens": CACHE_TOKENS}
    return assemble(model, EngineConfig(attention=GPU_ATTENTION, **{**defaults, **settings}))


@contextmanager
def timed_engine(model: LoadedModel, name: str, settings: dict[str, Any]) -> Iterator[PagedEngine]:
    seconds, engine = timed(lambda: make_engine(model, settings))
    tell("engine made", way=name, seconds=seconds)
    yield engine


@contextmanager
def quiet_memory() -> Iterator[None]:
    """Give back what an engine held, its graphs too, before the next is made."""
    yield
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()


def profile(engine: PagedEngine) -> None:
    """What the time of decode steps goes to: kernels on the GPU, functions on the CPU."""
    requests = make_requests(make_prompts(SHARED_256), num_new=48, salt="profile")
    engine.submit(requests)
    while engine.statistics().num_waiting or engine.statistics().num_output_tokens == 0:
        engine.step()
    for _ in range(12):
        engine.step()
    synchronize()
    tell("kernels", rows=_profile_device(engine))
    tell("functions", rows=_profile_host(engine))
    engine.cancel(request.key for request in requests)
    while engine.has_work:
        engine.step()


def _profile_device(engine: PagedEngine, *, num_steps: int = 5, num_rows: int = 25) -> list[dict[str, Any]]:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    activity = ProfilerActivity.CUDA if DEVICE == "cuda" else ProfilerActivity.CPU
    with profiler(activities=[activity]) as found:
        for _ in range(num_steps):
            engine.step()
        synchronize()
    attribute = "self_device_time_total" if DEVICE == "cuda" else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: -getattr(event, attribute))
    return [
        {"name": event.key[:90], "us_per_step": getattr(event, attribute) / num_steps, "calls": event.count / num_steps}
        for event in events[:num_rows]
    ]


def _profile_host(engine: PagedEngine, *, num_steps: int = 10, num_rows: int = 40) -> list[str]:
    host = cProfile.Profile()
    with host:
        for _ in range(num_steps):
            engine.step()
    text = io.StringIO()
    pstats.Stats(host, stream=text).strip_dirs().sort_stats("tottime").print_stats(num_rows)
    return [line for line in text.getvalue().splitlines() if line.strip()][:num_rows]


if __name__ == "__main__":
    main()
