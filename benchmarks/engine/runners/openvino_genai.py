"""OpenVINO GenAI: continuous batching with its prefix cache."""

from __future__ import annotations

import numpy as np
import openvino  # type: ignore[import-not-found]
import openvino_genai  # type: ignore[import-not-found]

from benchmarks.engine.runners.base import Job, serve
from benchmarks.engine.workloads import Generate, TokenIds, common_prefix

BLOCK_TOKENS = 32
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def load(job: Job) -> Generate:
    """Load with the cache in the precision of the arithmetic; its own default is 8 bits.

    It looks a prompt up in the cache when the request comes, and not again. So requests that come together share
    nothing, and a prefix that they have in common is computed before them, as a request of its own.
    """
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.enable_prefix_caching = True
    scheduler.num_kv_blocks = job.num_cache_tokens // BLOCK_TOKENS
    scheduler.max_num_batched_tokens = job.options["max_batch_tokens"]
    properties = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[job.dtype],
        "KV_CACHE_PRECISION": PRECISIONS[job.dtype],
        "INFERENCE_NUM_THREADS": job.num_threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    pipeline = openvino_genai.ContinuousBatchingPipeline(job.model, scheduler, "CPU", properties)

    def run(prompts: list[TokenIds], num_new: int) -> list[TokenIds]:
        config = openvino_genai.GenerationConfig(max_new_tokens=num_new, ignore_eos=True, do_sample=False)
        inputs = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        results = pipeline.generate(inputs, [config] * len(prompts))
        return [list(result.m_generation_ids[0]) for result in results]

    def generate(prompts: list[TokenIds], num_new: int) -> list[TokenIds]:
        prefix = common_prefix(prompts) if len(prompts) > 1 else []
        if len(prefix) >= BLOCK_TOKENS:
            run([prefix], 1)
        return run(prompts, num_new)

    return generate


if __name__ == "__main__":
    serve(load, "openvino-genai", "openvino")
