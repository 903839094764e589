"""`transformers.generate`: one static batch per stage, prompts padded on the left."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from benchmarks.engine.runners.base import Job, serve
from benchmarks.engine.workloads import Generate, TokenIds


def load(job: Job) -> Generate:
    """Load with scaled dot product attention, the default."""
    torch.set_num_threads(job.num_threads)
    model: Any = AutoModelForCausalLM.from_pretrained(job.model, dtype=getattr(torch, job.dtype))
    pad_id = model.config.pad_token_id

    make_config: Any = GenerationConfig

    @torch.inference_mode()
    def generate(prompts: list[TokenIds], num_new: int) -> list[TokenIds]:
        longest = max(map(len, prompts))
        input_ids = torch.tensor([[pad_id] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        # The model's own settings would end an output at an end of sequence.
        config = model.generation_config = make_config(
            max_new_tokens=num_new, do_sample=False, eos_token_id=None, pad_token_id=pad_id
        )
        output = model.generate(input_ids=input_ids, attention_mask=mask, generation_config=config)
        new_tokens: list[TokenIds] = output[:, longest:].tolist()
        return new_tokens

    return generate


if __name__ == "__main__":
    serve(load, "transformers", "torch")
