"""`transformers.generate_batch`: its continuous batching over a paged cache, with shared blocks."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from benchmarks.engine.runners.base import Job, serve
from benchmarks.engine.workloads import Generate, TokenIds


def load(job: Job) -> Generate:
    """Load with the paged attention that runs on a CPU."""
    torch.set_num_threads(job.num_threads)
    model: Any = AutoModelForCausalLM.from_pretrained(
        job.model, dtype=getattr(torch, job.dtype), attn_implementation="paged|sdpa"
    )
    batching = ContinuousBatchingConfig(
        block_size=job.options["block_size"],
        num_blocks=job.num_cache_tokens // job.options["block_size"],
        max_batch_tokens=job.options["max_batch_tokens"],
    )
    make_config: Any = GenerationConfig

    def generate(prompts: list[TokenIds], num_new: int) -> list[TokenIds]:
        config = model.generation_config = make_config(
            max_new_tokens=num_new, do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        outputs = model.generate_batch(
            inputs=prompts, generation_config=config, continuous_batching_config=batching, progress_bar=False
        )
        by_index = {int(key.rsplit("_", 1)[1]): output for key, output in outputs.items()}
        return [by_index[index].generated_tokens for index in range(len(prompts))]

    return generate


if __name__ == "__main__":
    serve(load, "transformers", "torch")
