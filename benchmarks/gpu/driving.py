"""Drive an engine through one batch of requests, and say how its steps went."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from parrot_workers.engine.base import Engine, Failed, Finished, GenerationRequest, Started

from parrot_mq.types import Sampling

__all__ = ["Run", "make_requests", "run_batch"]


@dataclass(slots=True)
class Run:
    """One batch, from submission to its last token.

    Attributes:
        seconds: All of it.
        prefill_s: Until the last request had its first token.
        decode_steps_s: Seconds of each step in which every request got one token, and nothing else happened.
        outputs: What ended each request, by key.
        num_computed_tokens: Tokens that went through the model.
        num_read_tokens: Tokens whose K/V attention read.
        num_flat_tokens: What it would have read without levels.
    """

    seconds: float = 0.0
    prefill_s: float = 0.0
    decode_steps_s: list[float] = field(default_factory=list)
    outputs: dict[str, Finished] = field(default_factory=dict)
    num_computed_tokens: int = 0
    num_read_tokens: int = 0
    num_flat_tokens: int = 0

    @property
    def step_s(self) -> float:
        """Median of the decode steps; the first ones, in which graphs are captured, do not move it."""
        return statistics.median(self.decode_steps_s) if self.decode_steps_s else float("nan")

    @property
    def facts(self) -> dict[str, float]:
        """What is told of it."""
        num_tokens = sum(output.num_output_tokens for output in self.outputs.values())
        quickest = sorted(self.decode_steps_s)[: max(1, len(self.decode_steps_s) // 10)]
        return {
            "seconds": self.seconds,
            "prefill_s": self.prefill_s,
            "step_ms": 1e3 * self.step_s,
            "quickest_tenth_ms": 1e3 * statistics.mean(quickest) if quickest else float("nan"),
            "num_steps": len(self.decode_steps_s),
            "decode_tokens_per_s": len(self.outputs) / self.step_s,
            "output_tokens_per_s": num_tokens / self.seconds,
            "num_computed_tokens": self.num_computed_tokens,
            "num_read_tokens": self.num_read_tokens,
            "num_flat_tokens": self.num_flat_tokens,
        }


def make_requests(prompts: Sequence[Sequence[int]], *, num_new: int, salt: str = "") -> list[GenerationRequest]:
    """Greedy requests of exactly `num_new` tokens each."""
    sampling = Sampling(max_tokens=num_new, ignore_eos=True)
    return [
        GenerationRequest(key=str(index), prompt=tuple(prompt), sampling=sampling, salt=salt)
        for index, prompt in enumerate(prompts)
    ]


def run_batch(engine: Engine, requests: Sequence[GenerationRequest]) -> Run:
    """Submit everything at once and step until all is done.

    Raises:
        RuntimeError: A request failed.
    """
    run, before = Run(), engine.statistics()
    num_started = num_ended = 0
    began = last = time.perf_counter()
    engine.submit(requests)
    while engine.has_work:
        events = engine.step()
        now = time.perf_counter()
        if num_started == len(requests) and num_ended == 0 and not any(isinstance(one, Finished) for one in events):
            run.decode_steps_s.append(now - last)
        last = now
        for event in events:
            if isinstance(event, Failed):
                raise RuntimeError(f"request {event.key} failed: {event.error}")
            if isinstance(event, Started):
                num_started += 1
                run.prefill_s = now - began
            if isinstance(event, Finished):
                num_ended += 1
                run.outputs[event.key] = event
    run.seconds = last - began
    after = engine.statistics()
    run.num_computed_tokens = after.num_computed_tokens - before.num_computed_tokens
    run.num_read_tokens = after.num_read_tokens - before.num_read_tokens
    run.num_flat_tokens = after.num_flat_tokens - before.num_flat_tokens
    return run
