"""An engine without a model: answers come from a function. For tests and benchmarks of what is around an engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from parrot_mq.errors import ContextLengthExceeded, DeadlineExceeded, EngineFailure, ParrotError, TaskCancelled
from parrot_workers.engine.base import (
    Delta,
    EngineEvent,
    EngineStatistics,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    Prefilled,
    PrefillRequest,
    Started,
)
from parrot_workers.engine.prefills import Prefill, PrefillQueue
from parrot_workers.engine.scripted_cache import ScriptedCache

__all__ = ["ScriptedEngine"]


@dataclass(slots=True)
class _Row:
    """A request, and how much of its answer has been told."""

    request: GenerationRequest
    came: float
    text: str = ""
    finish_reason: FinishReason = "eos"
    num_shared_tokens: int = 0
    num_prefilled_tokens: int = 0
    num_told: int = 0


class ScriptedEngine:
    """Answers each request with `answer(request)`. Needs no torch.

    One character is one token, and its code point is the token's id. An output that an earlier attempt began goes on
    with as much of the answer as is left. Prompts share what the hashes of their prefixes say that they share, as long
    as a cache of that size would hold it. A step computes one prompt ahead, if no request waits.

    Args:
        answer: The text of a request, before stop strings and `max_tokens` cut it. What it raises becomes the request's
            `Failed`: a `ParrotError` as it is, anything else as `EngineFailure`.
        tokens_per_step: Characters that each running request tells per step.
        num_slots: Requests that run at a time.
        max_context_tokens: Most characters of prompt and output together.
        num_pages: Pages of the cache that it stands for; 0 if it has none.
        page_size: Characters in a page.
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
        num_pages: int = 65_536,
        page_size: int = 16,
        step_s: float = 0.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._answer = answer
        self._tokens_per_step = tokens_per_step
        self._num_slots = num_slots
        self._max_context_tokens = max_context_tokens
        self._step_s = step_s
        self._now = now
        self._cache = ScriptedCache(num_pages=num_pages, page_size=page_size)
        self._waiting: dict[str, _Row] = {}
        self._running: dict[str, _Row] = {}
        self._events: list[EngineEvent] = []
        self._prefills = PrefillQueue(_read_beginning)
        self._num_batches = self._num_prompt = self._num_shared = self._num_prefilled = self._num_output = 0
        self._num_steps = self._num_batched = self._last_batch_size = 0
        self._sum_step_s = self._last_step_s = 0.0

    @property
    def num_slots(self) -> int:
        return self._num_slots

    @property
    def max_context_tokens(self) -> int:
        return self._max_context_tokens

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting or self._events or self._prefills.has_work)

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
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
                self._waiting[request.key] = _Row(request, self._now())
                self._prefills.remove(request.key)

    def cancel(self, keys: Iterable[str]) -> None:
        for key in keys:
            if self._waiting.pop(key, None) is not None or self._running.pop(key, None) is not None:
                self._events.append(Failed(key, TaskCancelled(task=key)))

    def pin(self, names: Iterable[str]) -> None:
        self._cache.pin(names)
        self._prefills.unblock()

    def prefill(self, requests: Sequence[PrefillRequest]) -> None:
        has_come = self._running.keys() | self._waiting.keys()
        self._prefills.replace(request for request in requests if request.key not in has_come)

    def step(self) -> list[EngineEvent]:
        if not self.has_work:
            return []
        began_at = time.monotonic()
        self._expire()
        self._schedule()
        self._last_batch_size = len(self._running)
        if self._step_s:
            time.sleep(self._step_s)
        for row in list(self._running.values()):
            self._advance(row)
        if not self._waiting and (prefill := self._prefills.next()):
            self._prefill(prefill)
        self._events += map(Prefilled, self._prefills.take_finished())
        self._num_steps += 1
        self._num_batched += self._last_batch_size
        self._last_step_s = time.monotonic() - began_at
        self._sum_step_s += self._last_step_s
        events, self._events = self._events, []
        return events

    def statistics(self) -> EngineStatistics:
        cache = self._cache
        return EngineStatistics(
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            num_batches=self._num_batches,
            num_prompt_tokens=self._num_prompt,
            num_shared_tokens=self._num_shared,
            num_computed_tokens=self._num_prompt - self._num_shared + self._num_prefilled + self._num_output,
            num_prefilled_tokens=self._num_prefilled,
            num_output_tokens=self._num_output,
            num_steps=self._num_steps,
            num_batched=self._num_batched,
            step_s=self._sum_step_s,
            last_step_s=self._last_step_s,
            last_batch_size=self._last_batch_size,
            page_size=cache.page_size if cache.num_pages else 0,
            num_pages=cache.num_pages,
            num_free_pages=cache.num_pages - cache.num_cached_pages,
            num_cached_pages=cache.num_cached_pages,
            num_pinned_pages=cache.num_pinned_pages,
            num_evicted_pages=cache.num_evicted_pages,
        )

    def check_integrity(self) -> None:
        self._cache.check_integrity()

    def _expire(self) -> None:
        """Give up those who have waited too long."""
        now = self._now()
        for row in [row for row in self._waiting.values() if row.request.deadline < now]:
            key = row.request.key
            del self._waiting[key]
            timeout_s = max(0.0, row.request.deadline - row.came)
            self._events.append(Failed(key, DeadlineExceeded(what=f"the start of {key!r}", timeout_s=timeout_s)))

    def _schedule(self) -> None:
        """Give free slots to those who wait."""
        rows = list(islice(self._waiting.values(), self._num_slots - len(self._running)))
        self._num_batches += bool(rows)
        for row in rows:
            del self._waiting[row.request.key]
            try:
                row.text, row.finish_reason = _cut(self._answer(row.request), row.request)
                row.num_told = min(len(row.request.output_ids), len(row.text))
            except ParrotError as error:
                self._events.append(Failed(row.request.key, error))
            except Exception as error:
                failure = EngineFailure(cause=f"{type(error).__name__}: {error}")
                self._events.append(Failed(row.request.key, failure))
            else:
                self._start(row)

    def _start(self, row: _Row) -> None:
        request = row.request
        row.num_shared_tokens = self._cache.add(request)
        row.num_prefilled_tokens = self._prefills.take_computed(request.key, row.num_shared_tokens)
        self._num_prompt += len(request.prompt)
        self._num_shared += row.num_shared_tokens
        self._running[request.key] = row
        counts = len(request.prompt), row.num_shared_tokens, row.num_prefilled_tokens
        self._events.append(Started(request.key, *counts, text=row.text[: row.num_told]))

    def _prefill(self, prefill: Prefill) -> None:
        """Remember the beginning of a prompt that has not come yet, if there is room."""
        if not self._cache.has_room(prefill.request):
            self._prefills.block()
            return
        num_known = self._cache.add(prefill.request)
        self._num_prefilled += len(prefill.token_ids) - num_known
        self._prefills.note(prefill, num_known, len(prefill.token_ids))
        self._prefills.finish(prefill)

    def _advance(self, row: _Row) -> None:
        """Tell the next characters of one answer."""
        key = row.request.key
        text = row.text[row.num_told : row.num_told + self._tokens_per_step]
        if text:
            self._events.append(Delta(key, text, row.num_told, output_ids=_ids(text)))
            row.num_told += len(text)
            self._num_output += len(text)
        if row.num_told == len(row.text):
            del self._running[key]
            self._events.append(_finished(row))


def _finished(row: _Row) -> Finished:
    return Finished(
        key=row.request.key,
        text=row.text,
        finish_reason=row.finish_reason,
        num_prompt_tokens=len(row.request.prompt),
        num_shared_tokens=row.num_shared_tokens,
        num_prefilled_tokens=row.num_prefilled_tokens,
        num_output_tokens=len(row.text),
        output_ids=_ids(row.text),
    )


def _ids(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def _read_beginning(request: PrefillRequest) -> tuple[list[int], list[tuple[str, int]]]:
    prompt = request.prompt
    return list(_ids(prompt) if isinstance(prompt, str) else prompt), []


def _cut(text: str, request: GenerationRequest) -> tuple[str, FinishReason]:
    """End an answer where the request wants it to end."""
    sampling = request.sampling
    begun = "".join(map(chr, request.output_ids))
    text = begun + text[len(begun) :]
    # A stop string must be generated whole to be seen: search in what `max_tokens` allows.
    allowed = text[: sampling.max_tokens]
    places = [place for place in (allowed.find(stop) for stop in sampling.stop) if place >= 0]
    if places:
        return allowed[: min(places)], "stop"
    return allowed, "eos" if len(text) < sampling.max_tokens else "length"
