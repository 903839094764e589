"""An engine without a model: answers come from a function. For tests and benchmarks of what is around an engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from parrot_mq.errors import ContextLengthExceeded, EngineFailure, ParrotError, TaskCancelled
from parrot_workers.engine.base import (
    Delta,
    EngineEvent,
    EngineStatistics,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    Started,
)
from parrot_workers.engine.grouping import shared_lengths
from parrot_workers.engine.waiting import WaitingQueue

__all__ = ["ScriptedEngine"]


@dataclass(slots=True)
class _Row:
    """A request and how much of its answer has been told."""

    request: GenerationRequest
    text: str = ""
    finish_reason: FinishReason = "eos"
    num_shared_tokens: int = 0
    num_told: int = 0


class ScriptedEngine:
    """Answers each request with `answer(request)`. One character counts as one token. Needs no torch.

    Args:
        answer: The text of a request, before stop strings and `max_tokens` cut it. What it raises becomes the request's
            `Failed`: a `ParrotError` as it is, anything else as `EngineFailure`.
        tokens_per_step: Characters that each running request tells per step.
        num_slots: Requests that run at a time.
        max_context_tokens: Most characters of prompt and output together.
        step_s: Seconds that each step sleeps, to stand for the model.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        answer: Callable[[GenerationRequest], str],
        *,
        tokens_per_step: int = 16,
        num_slots: int = 16,
        max_context_tokens: int = 1_000_000,
        step_s: float = 0.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._answer = answer
        self._tokens_per_step = tokens_per_step
        self._num_slots = num_slots
        self._max_context_tokens = max_context_tokens
        self._step_s = step_s
        self._now = now
        self._waiting: WaitingQueue[_Row] = WaitingQueue()
        self._running: dict[str, _Row] = {}
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
            max_tokens = request.sampling.max_tokens
            if len(request.prompt) + max_tokens > self._max_context_tokens:
                error = ContextLengthExceeded(
                    num_prompt_tokens=len(request.prompt), max_tokens=max_tokens, limit=self._max_context_tokens
                )
                self._events.append(Failed(request.key, error))
            else:
                self._waiting.push(_Row(request), now=now)

    def cancel(self, keys: Iterable[str]) -> None:
        for key in keys:
            if self._waiting.remove(key) or self._running.pop(key, None) is not None:
                self._events.append(Failed(key, TaskCancelled(task=key)))

    def step(self) -> list[EngineEvent]:
        if not self.has_work:
            return []
        self._num_steps += 1
        self._schedule()
        if self._step_s:
            time.sleep(self._step_s)
        for row in list(self._running.values()):
            self._advance(row)
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

    def _schedule(self) -> None:
        """Give free slots to those who wait."""
        self._events += self._waiting.expire(now=self._now())
        rows = self._waiting.take(self._num_slots - len(self._running))
        if not rows:
            return
        self._num_batches += 1
        for row, shared in zip(rows, shared_lengths([row.request.prompt for row in rows]), strict=True):
            try:
                row.text, row.finish_reason = _cut(self._answer(row.request), row.request)
            except ParrotError as error:
                self._events.append(Failed(row.request.key, error))
                continue
            except Exception as error:
                failure = EngineFailure(cause=f"{type(error).__name__}: {error}")
                self._events.append(Failed(row.request.key, failure))
                continue
            row.num_shared_tokens = shared
            self._num_prompt += len(row.request.prompt)
            self._num_shared += shared
            self._running[row.request.key] = row
            self._events.append(Started(row.request.key, len(row.request.prompt), shared))

    def _advance(self, row: _Row) -> None:
        """Tell the next characters of one answer."""
        key = row.request.key
        text = row.text[row.num_told : row.num_told + self._tokens_per_step]
        if text:
            self._events.append(Delta(key, text, row.num_told))
            row.num_told += len(text)
            self._num_output += len(text)
        if row.num_told == len(row.text):
            del self._running[key]
            self._events.append(
                Finished(
                    key=key,
                    text=row.text,
                    finish_reason=row.finish_reason,
                    num_prompt_tokens=len(row.request.prompt),
                    num_shared_tokens=row.num_shared_tokens,
                    num_output_tokens=len(row.text),
                )
            )


def _cut(text: str, request: GenerationRequest) -> tuple[str, FinishReason]:
    """End an answer where the request wants it to end."""
    sampling = request.sampling
    # A stop string must be generated whole to be seen: search in what `max_tokens` allows.
    allowed = text[: sampling.max_tokens]
    places = [place for place in (allowed.find(stop) for stop in sampling.stop) if place >= 0]
    if places:
        return allowed[: min(places)], "stop"
    return allowed, "eos" if len(text) < sampling.max_tokens else "length"
