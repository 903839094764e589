"""Ours: the engine as a worker runs it, without the bus."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import torch
from parrot_workers.config import WorkerConfig
from parrot_workers.engine import Engine, Failed, Finished, GenerationRequest, create_engine

from benchmarks.engine.runners.base import Job, serve
from benchmarks.engine.workloads import Generate, TokenIds
from parrot_mq.types import Sampling


def load(job: Job) -> Generate:
    """Load as a worker does. The options are settings of the engine."""
    torch.set_num_threads(job.num_threads)
    config = WorkerConfig(
        model_path=Path(job.model),
        device="cpu",
        dtype=job.dtype,
        num_threads=job.num_threads,
        max_context_tokens=job.max_context_tokens,
        cache_tokens=job.num_cache_tokens,
        **job.options,
    )
    engine = create_engine(config)
    keys = map(str, count())

    def generate(prompts: list[TokenIds], num_new: int) -> list[TokenIds]:
        sampling = Sampling(max_tokens=num_new, ignore_eos=True)
        requests = [GenerationRequest(key=next(keys), prompt=tuple(prompt), sampling=sampling) for prompt in prompts]
        engine.submit(requests)
        outputs = _run(engine)
        return [outputs[request.key] for request in requests]

    return generate


def _run(engine: Engine) -> dict[str, TokenIds]:
    outputs = {}
    while engine.has_work:
        for event in engine.step():
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                outputs[event.key] = list(event.output_ids)
    return outputs


if __name__ == "__main__":
    serve(load, "torch", "transformers")
