"""The same work by transformers: `generate`, a static batch, and `generate_batch`, its continuous batching."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from benchmarks.gpu.engine import NUM_NEW, PROMPT, SHARED, Case, make_prompts
from benchmarks.gpu.model import DEVICE, IS_REHEARSAL, main_shape, make_model, synchronize
from benchmarks.gpu.stage import Deadline, tell, timed

BLOCK_TOKENS: Final = 32
MAX_BATCH_TOKENS: Final = 512 if IS_REHEARSAL else 4096
"""`generate_batch` masks every token of a step against every key of all sequences, so a larger step is a slower one."""

Generate = Callable[[Sequence[Sequence[int]]], list[list[int]]]


def main() -> None:
    deadline = Deadline()
    model = make_model(main_shape())
    ways: dict[str, Generate] = {
        "generate": lambda prompts: generate(model, prompts),
        "generate_batch": lambda prompts: generate_batch(model, prompts),
    }
    for case in (Case(32, SHARED, 12), Case(32, 0, 12), Case(128, SHARED, 30)):
        for way, run in ways.items():
            if not deadline.allows(case.needs_s, f"{way}: {case}"):
                continue
            try:
                measure(way, run, case)
            except Exception as error:  # of one, not of the others
                tell("failed", way=way, num_requests=case.num_requests, cause=f"{type(error).__name__}: {error}"[:300])
            gc.collect()
            if DEVICE == "cuda":
                torch.cuda.empty_cache()


def measure(way: str, run: Generate, case: Case) -> None:
    """Time one batch, after a small one of the same kind."""
    prompts = make_prompts(case)
    run([prompt[: PROMPT // 8] for prompt in prompts[:4]])

    def whole() -> list[list[int]]:
        outputs = run(prompts)
        synchronize()
        return outputs

    seconds, outputs = timed(whole)
    num_tokens = sum(map(len, outputs))
    tell(
        "comparator",
        way=way,
        num_requests=case.num_requests,
        num_shared=case.num_shared,
        num_prompt=PROMPT,
        num_new=NUM_NEW,
        seconds=seconds,
        output_tokens_per_s=num_tokens / seconds,
    )


@torch.inference_mode()
def generate(model: Any, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """One static batch. The prompts are equally long, so nothing is padded."""
    input_ids = torch.tensor(prompts, device=DEVICE)
    mask = torch.ones_like(input_ids)
    output = model.generate(
        input_ids,
        attention_mask=mask,
        max_new_tokens=NUM_NEW,
        min_new_tokens=NUM_NEW,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    rows: list[list[int]] = output[:, input_ids.shape[1] :].tolist()
    return rows


def generate_batch(model: Any, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Continuous batching over a paged cache that keeps equal blocks once."""
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    needed = len(prompts) * (len(prompts[0]) + NUM_NEW + BLOCK_TOKENS)
    batching = ContinuousBatchingConfig(
        block_size=BLOCK_TOKENS, num_blocks=needed // BLOCK_TOKENS + 16, max_batch_tokens=MAX_BATCH_TOKENS
    )
    before = model.config._attn_implementation
    model.set_attn_implementation("paged|sdpa")
    make: Any = GenerationConfig
    config = make(max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=-1, pad_token_id=0)
    try:
        outputs = model.generate_batch(
            inputs=[list(prompt) for prompt in prompts],
            generation_config=config,
            continuous_batching_config=batching,
            progress_bar=False,
        )
    finally:
        model.set_attn_implementation(before)
    return [output.generated_tokens for output in outputs.values()]


if __name__ == "__main__":
    main()
