"""What an engine has done since it was made."""

from __future__ import annotations

from parrot_workers.attention import AttentionPlan
from parrot_workers.engine.base import EngineStatistics
from parrot_workers.engine.batcher import Step
from parrot_workers.engine.sequence import Sequence
from parrot_workers.kv_cache import CacheStatistics

__all__ = ["Counters"]


class Counters:
    """Sums over steps, and the last step."""

    def __init__(self) -> None:
        self._num_prompt = self._num_shared = self._num_computed = self._num_prefilled = self._num_output = 0
        self._num_steps = self._num_batched = self._num_levels = self._num_read = self._num_flat = 0
        self._step_s = self._last_step_s = 0.0
        self._last_batch_size = 0

    def count_step(self, step: Step, plan: AttentionPlan, duration_s: float) -> None:
        """Count a step that was launched."""
        statistics = plan.statistics
        self._num_steps += 1
        self._num_computed += step.num_rows
        self._num_prefilled += step.num_prefilled_rows
        self._num_batched += len(step.sequences)
        self._num_levels += statistics.num_levels
        self._num_read += statistics.num_read_tokens
        self._num_flat += statistics.num_flat_tokens
        self._step_s += duration_s
        self._last_step_s = duration_s
        self._last_batch_size = len(step.sequences)

    def count_start(self, sequence: Sequence) -> None:
        """Count a sequence whose prompt has been read."""
        self._num_prompt += len(sequence.state.prompt_ids)
        self._num_shared += sequence.state.num_shared_tokens

    def count_token(self) -> None:
        """Count a token that was sampled."""
        self._num_output += 1

    def statistics(
        self, cache: CacheStatistics, *, page_size: int, num_running: int, num_waiting: int, num_preemptions: int
    ) -> EngineStatistics:
        """Put everything together."""
        return EngineStatistics(
            num_running=num_running,
            num_waiting=num_waiting,
            num_preemptions=num_preemptions,
            num_prompt_tokens=self._num_prompt,
            num_shared_tokens=self._num_shared,
            num_copied_tokens=cache.num_copied_tokens,
            num_computed_tokens=self._num_computed,
            num_prefilled_tokens=self._num_prefilled,
            num_output_tokens=self._num_output,
            num_steps=self._num_steps,
            num_batched=self._num_batched,
            num_levels=self._num_levels,
            num_read_tokens=self._num_read,
            num_flat_tokens=self._num_flat,
            step_s=self._step_s,
            last_step_s=self._last_step_s,
            last_batch_size=self._last_batch_size,
            page_size=page_size,
            num_pages=cache.num_pages,
            num_free_pages=cache.num_free_pages,
            num_cached_pages=cache.num_cached_pages,
            num_pinned_pages=cache.num_pinned_pages,
            num_evicted_pages=cache.num_evicted_pages,
        )
