"""SimpleEngine: the simplest engine that is right. It computes a common prefix once per group, and keeps it per row."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import torch

from parrot_mq.errors import CapacityExhausted, ContextLengthExceeded, EngineFailure, ParrotError, TaskCancelled
from parrot_workers.engine.base import EngineEvent, EngineStatistics, Failed, Finished, GenerationRequest
from parrot_workers.engine.batch import RunningBatch
from parrot_workers.engine.generation_state import GenerationState
from parrot_workers.engine.grouping import group_by_prefix
from parrot_workers.engine.random_numbers import uniform
from parrot_workers.engine.sampler import sample
from parrot_workers.engine.waiting import WaitingQueue
from parrot_workers.models.loader import LoadedModel

__all__ = ["SimpleEngine"]


class SimpleEngine:
    """Runs a Hugging Face model. Requests that are admitted together and begin alike compute what is alike once.

    Each group is a batch with a cache of its own. A step decodes one token for every batch, so groups run side by side,
    new ones join between steps, and finished rows leave at once.

    Args:
        model: What to run.
        num_slots: Requests that run at a time; bounds the memory.
        max_context_tokens: Most tokens of prompt and output together; 0 takes what the model can.
        min_shared_tokens: A shorter common prefix is computed for each request.
        max_prefill_tokens: Tokens of prompts that go through the model at once; bounds the memory of a step.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        num_slots: int = 16,
        max_context_tokens: int = 0,
        min_shared_tokens: int = 16,
        max_prefill_tokens: int = 4096,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._model = model
        self._num_slots = num_slots
        self._max_context_tokens = min(max_context_tokens or model.max_context_tokens, model.max_context_tokens)
        self._min_shared_tokens = min_shared_tokens
        self._max_prefill_tokens = max_prefill_tokens
        self._now = now
        self._waiting: WaitingQueue[GenerationState] = WaitingQueue()
        self._running: dict[str, GenerationState] = {}  # who holds a slot; rows of batches that are not in here leave
        self._batches: list[RunningBatch] = []
        self._events: list[EngineEvent] = []
        self._num_batches = self._num_prompt = self._num_shared = self._num_output = self._num_steps = 0

    @property
    def num_slots(self) -> int:
        return self._num_slots

    @property
    def max_context_tokens(self) -> int:
        return self._max_context_tokens

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting or self._events)

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        now = self._now()
        for request in requests:
            if request.key in self._running or request.key in self._waiting:
                continue
            try:
                self._waiting.push(self._read(request), now=now)
            except Exception as error:
                self._events.append(Failed(request.key, _as_failure(error)))

    def cancel(self, keys: Iterable[str]) -> None:
        for key in keys:
            if self._waiting.remove(key) or self._running.pop(key, None) is not None:
                self._events.append(Failed(key, TaskCancelled(task=key)))

    def step(self) -> list[EngineEvent]:
        if not self.has_work:
            return []
        self._num_steps += 1
        for batch in self._schedule():
            try:
                tokens = self._sample(batch, batch.forward())
            except Exception as error:
                self._fail(batch.states, _as_failure(error))
            else:
                self._postprocess(batch, tokens)
        self._drop_finished()
        events, self._events = self._events, []
        return events

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            num_batches=self._num_batches,
            num_prompt_tokens=self._num_prompt,
            num_shared_tokens=self._num_shared,
            num_output_tokens=self._num_output,
            num_steps=self._num_steps,
        )

    # -- schedule ----------------------------------------------------------------------------------------------------

    def _read(self, request: GenerationRequest) -> GenerationState:
        """Tokenize a prompt and see whether it fits."""
        model, max_tokens = self._model, request.sampling.max_tokens
        prompt_ids = model.encode(request.prompt)
        if len(prompt_ids) + max_tokens > self._max_context_tokens:
            raise ContextLengthExceeded(
                num_prompt_tokens=len(prompt_ids), max_tokens=max_tokens, limit=self._max_context_tokens
            )
        return GenerationState(request, prompt_ids, decode=model.decode, eos_token_ids=model.eos_token_ids)

    def _schedule(self) -> list[RunningBatch]:
        """Give free slots to those who wait, in groups that begin alike. Returns: every batch that has a row."""
        self._drop_finished()
        self._events += self._waiting.expire(now=self._now())
        states = self._waiting.take(self._num_slots - len(self._running))
        if states:
            self._running.update((state.request.key, state) for state in states)
            # More tokens than any prompt has: nobody shares.
            min_prefix = self._min_shared_tokens if not self._model.has_sliding_window else self._max_context_tokens
            for group in group_by_prefix([state.prompt_ids for state in states], min_prefix=min_prefix):
                self._start([states[index] for index in group.members], group.prefix_length)
        return list(self._batches)

    def _start(self, states: list[GenerationState], prefix_length: int) -> None:
        batch = RunningBatch(self._model, states, prefix_length, max_prefill_tokens=self._max_prefill_tokens)
        self._batches.append(batch)
        self._num_batches += 1
        self._num_prompt += sum(len(state.prompt_ids) for state in states)
        for state in states[1:]:  # the first pays for the prefix
            state.num_shared_tokens = prefix_length
            self._num_shared += prefix_length

    def _drop_finished(self) -> None:
        """Rows that hold no slot any more, finished or cancelled, leave their batch."""
        for batch in self._batches:
            rows = [row for row, state in enumerate(batch.states) if self._running.get(state.request.key) is state]
            batch.keep(rows)
        self._batches = [batch for batch in self._batches if batch.states]

    # -- sample ------------------------------------------------------------------------------------------------------

    def _sample(self, batch: RunningBatch, logits: torch.Tensor) -> list[int]:
        """Choose each row's next token. Rows whose logits are broken fail here, and get a token that nobody reads."""
        broken = logits.isnan().any(dim=-1)
        if broken.any():
            failure = EngineFailure(cause="the model gave logits that are not numbers")
            self._fail([batch.states[row] for row in broken.nonzero().flatten().tolist()], failure)
            logits = logits.nan_to_num()
        samplings = [state.request.sampling for state in batch.states]
        uniforms = [uniform(state.request.seed, len(state.output_ids)) for state in batch.states]
        return sample(logits, samplings, uniforms)

    # -- postprocess -------------------------------------------------------------------------------------------------

    def _postprocess(self, batch: RunningBatch, tokens: Sequence[int]) -> None:
        """Turn tokens into events; who is finished gives up its slot."""
        for state, token_id in zip(batch.states, tokens, strict=True):
            if state.request.key not in self._running:
                continue  # it failed while sampling
            try:
                events = state.append(token_id)
            except Exception as error:
                self._fail([state], _as_failure(error))
                continue
            self._num_output += 1
            self._events += events
            if isinstance(events[-1] if events else None, Finished):
                del self._running[state.request.key]

    def _fail(self, states: Iterable[GenerationState], error: ParrotError) -> None:
        for state in states:
            if self._running.pop(state.request.key, None) is not None:
                self._events.append(Failed(state.request.key, error))


def _as_failure(error: Exception) -> ParrotError:
    """What to tell those whose request met `error`."""
    if isinstance(error, ParrotError):
        return error
    # The CPU allocator raises a plain RuntimeError.
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return CapacityExhausted(f"the worker has no memory for the batch: {error}")
    return EngineFailure(cause=f"{type(error).__name__}: {error}")
