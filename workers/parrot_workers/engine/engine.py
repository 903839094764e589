"""PagedEngine: one paged cache, one packed batch. Its step is three calls: schedule, forward, postprocess."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf

import torch

from parrot_mq.errors import CapacityExhausted, EngineFailure, ParrotError, TaskCancelled
from parrot_workers.config import EngineConfig
from parrot_workers.engine.base import (
    EngineEvent,
    EngineStatistics,
    Failed,
    Finished,
    GenerationRequest,
    Prefilled,
    PrefillRequest,
)
from parrot_workers.engine.batcher import Batcher, Step
from parrot_workers.engine.counters import Counters
from parrot_workers.engine.generation_state import GenerationState
from parrot_workers.engine.model_runner import Launched, ModelRunner
from parrot_workers.engine.prefills import PrefillQueue
from parrot_workers.engine.prompt_reader import PromptReader
from parrot_workers.engine.sampled import SampledToken
from parrot_workers.engine.sampling_check import check_token_ids
from parrot_workers.engine.sequence import Sequence
from parrot_workers.engine.step_time import StepTimeModel
from parrot_workers.kv_cache import CacheManager
from parrot_workers.models import LoadedModel

__all__ = ["PagedEngine"]


class PagedEngine:
    """Runs a Hugging Face model over one paged cache, in which everything that begins alike is kept once.

    Args:
        model: What to run.
        runner: Runs its steps.
        cache: The pages that the runner's pool has.
        config: How.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        model: LoadedModel,
        runner: ModelRunner,
        cache: CacheManager,
        config: EngineConfig,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._model = model
        self._runner = runner
        self._cache = cache
        self._config = config
        self._now = now
        limit = model.limit_context(config.max_context_tokens)
        self._max_context_tokens = min(limit, cache.statistics().num_pages * cache.page_size)
        self._reader = PromptReader(model, max_context_tokens=self._max_context_tokens)
        self._step_time = StepTimeModel()
        self._prefills = PrefillQueue(self._reader.read_beginning)
        self._batcher = Batcher(
            cache,
            self._step_time,
            num_slots=config.num_slots,
            max_step_tokens=config.max_step_tokens,
            prefills=self._prefills,
            is_chunked=config.chunked_prefill,
        )
        self._sequences: dict[str, Sequence] = {}  # that have not ended
        self._launched: deque[Launched] = deque()
        self._events: list[EngineEvent] = []
        self._counters = Counters()
        self._num_submitted = 0
        self._last_read_at = 0.0

    @property
    def num_slots(self) -> int:
        return self._config.num_slots

    @property
    def max_context_tokens(self) -> int:
        return self._max_context_tokens

    @property
    def has_work(self) -> bool:
        return bool(self._sequences or self._launched or self._events or self._prefills.has_work)

    def submit(self, requests: SequenceOf[GenerationRequest]) -> None:
        for request in requests:
            if request.key in self._sequences:
                continue
            try:
                self._add(request)
            except Exception as error:
                self._events.append(Failed(request.key, _as_failure(error)))

    def cancel(self, keys: Iterable[str]) -> None:
        for key in keys:
            if sequence := self._sequences.get(key):
                self._end(sequence)
                self._events.append(Failed(key, TaskCancelled(task=key)))

    def pin(self, names: Iterable[str]) -> None:
        self._cache.pin(names)
        self._prefills.unblock()

    def prefill(self, requests: SequenceOf[PrefillRequest]) -> None:
        if self._config.share_prefixes:
            self._prefills.replace(request for request in requests if request.key not in self._sequences)

    def step(self) -> list[EngineEvent]:
        if self.has_work:
            self._run_step()
        events, self._events = self._events, []
        return events

    def _run_step(self) -> None:
        self._expire()
        step = self._batcher.schedule()
        self._forward(step)
        while self._launched and (len(self._launched) > self._runner.lookahead or not step.num_rows):
            self._postprocess(self._launched.popleft())
        self._events += map(Prefilled, self._prefills.take_finished())

    def check_integrity(self) -> None:
        """Prove that no page is lost or used twice.

        Raises:
            AssertionError: Some is.
        """
        self._cache.check_integrity([each.cache for each in self._batcher.running if each.cache is not None])

    def capture(self, report: Callable[[float], None]) -> None:
        """Prepare for all sizes of decode steps, on a device where that helps."""
        self._runner.capture(report)

    def reset(self) -> None:
        """Forget what was counted and learned so far."""
        self._counters = Counters()
        self._step_time.reset()

    def statistics(self) -> EngineStatistics:
        return self._counters.statistics(
            self._cache.statistics(),
            page_size=self._cache.page_size,
            num_running=self._batcher.num_running,
            num_waiting=len(self._batcher.waiting),
            num_preemptions=self._batcher.num_preemptions,
        )

    # -- schedule ----------------------------------------------------------------------------------------------------

    def _add(self, request: GenerationRequest) -> None:
        """Tokenize a prompt and let it wait for its turn."""
        check_token_ids(request.sampling, self._model.vocab_size)
        token_ids, prefixes = self._reader.read(request)
        state = GenerationState(request, token_ids, decode=self._model.decode, eos_token_ids=self._model.eos_token_ids)
        if state.is_finished:  # by the tokens of an earlier attempt
            self._events += state.finish()
            return
        sequence = Sequence(state, self._num_submitted, prefixes)
        self._num_submitted += 1
        self._sequences[request.key] = sequence
        self._prefills.remove(request.key)
        self._batcher.waiting.push(sequence, now=self._now())

    def _expire(self) -> None:
        for failed in self._batcher.waiting.expire(now=self._now()):
            del self._sequences[failed.key]
            self._events.append(failed)

    # -- forward -----------------------------------------------------------------------------------------------------

    def _forward(self, step: Step) -> None:
        """Launch a step. If that fails, whoever is in it fails; the others go on."""
        if not step.num_rows:
            return
        try:
            launched = self._runner.launch(step)
        except Exception as error:
            for sequence in step.sequences:
                self._fail(sequence, _as_failure(error))
            for prefill in step.prefills:
                self._batcher.abandon(prefill)
            return
        self._batcher.launched(step, num_read_tokens=launched.plan.statistics.num_read_tokens)
        self._launched.append(launched)

    # -- postprocess -------------------------------------------------------------------------------------------------

    def _postprocess(self, launched: Launched) -> None:
        """Read the tokens of a step and tell what became of them."""
        tokens = launched.tokens.read()
        self._observe(launched)
        for sequence, token in zip(launched.sampled, tokens, strict=True):
            sequence.num_pending -= 1
            if self._sequences.get(sequence.key) is not sequence:
                continue  # it ended while the step ran
            try:
                self._append(sequence, token)
            except Exception as error:
                self._fail(sequence, _as_failure(error))

    def _append(self, sequence: Sequence, token: SampledToken) -> None:
        """Take the next token of a sequence, and tell what there is to tell."""
        if token.error is not None:
            raise token.error
        if not sequence.state.has_started:
            num_shared = max(0, len(sequence.state.prompt_ids) - sequence.num_own_prompt_tokens)
            sequence.state.num_shared_tokens = num_shared
            sequence.state.num_prefilled_tokens = self._prefills.take_computed(sequence.key, num_shared)
            self._counters.count_start(sequence)
        sequence.token_ids.append(token.token_id)
        self._counters.count_token()
        events = sequence.state.append(token.token_id, token.logprob)
        self._events += events
        if events and isinstance(finished := events[-1], Finished):
            self._reader.remember(sequence.request, finished.text, sequence.token_ids)
            self._end(sequence)

    def _fail(self, sequence: Sequence, error: ParrotError) -> None:
        self._end(sequence)
        self._events.append(Failed(sequence.key, error))

    def _end(self, sequence: Sequence) -> None:
        """Let a sequence go: it holds no slot and no page any more."""
        del self._sequences[sequence.key]
        self._batcher.drop(sequence)
        self._runner.close(sequence)

    def _observe(self, launched: Launched) -> None:
        """Learn how long a step takes: since its launch, or since the end of the one before if that was later."""
        now = time.perf_counter()
        duration_s = now - max(launched.launched_at, self._last_read_at)
        self._last_read_at = now
        step = launched.step
        self._counters.count_step(step, launched.plan, duration_s)
        self._step_time.observe(
            num_rows=step.num_rows,
            num_read_tokens=launched.plan.statistics.num_read_tokens,
            duration_s=duration_s,
        )


def _as_failure(error: Exception) -> ParrotError:
    """What to tell those whose request met `error`."""
    if isinstance(error, ParrotError):
        return error
    # The CPU allocator raises a plain RuntimeError.
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return CapacityExhausted(f"the worker has no memory for the batch: {error}")
    return EngineFailure(cause=f"{type(error).__name__}: {error}")
