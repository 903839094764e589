"""What an engine is: requests in, events out, one step at a time.

An engine is synchronous and belongs to one thread; it knows neither asyncio nor the bus. It runs from a plain script:

    engine.submit([GenerationRequest(key="a", prompt="get k1\\n> ", sampling=Sampling(max_tokens=8), seed=1)])
    while engine.has_work:
        for event in engine.step():
            print(event)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from parrot_mq.errors import ParrotError
from parrot_mq.types import Sampling, TokenLogprob
from parrot_workers.engine.logits_mask import LogitsMask

__all__ = [
    "Delta",
    "Engine",
    "EngineEvent",
    "EngineStatistics",
    "Failed",
    "FinishReason",
    "Finished",
    "GenerationRequest",
    "PrefillRequest",
    "Prefilled",
    "Started",
]

FinishReason: TypeAlias = Literal["stop", "eos", "length"]
"""`stop`: a stop string or token was met, or the constraint is finished; `eos`: the model ended; `length`: `max_tokens`
were generated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One text to generate.

    Attributes:
        key: Names the request in every event; unique among the requests that have not ended.
        prompt: The whole prompt: text, tokenized as a whole, or token ids.
        sampling: How to generate. Its `seed` is not read here.
        seed: Decided by the caller; random numbers are keyed by (seed, index of the output token) and by nothing else.
        prefix_hashes: Hash of all content up to each boundary of the prompt; equal hashes mean equal prefixes.
        prefix_ends: Characters of the prompt before each of these boundaries; empty if they are not known.
        deadline: Seconds since 1970; the request is not started after this.
        salt: Requests with different salts share no cache: the tenant, as a rule.
        output_ids: Tokens that an earlier attempt generated; the output goes on after them.
        tpot_target_s: Seconds that each output token may take, for a reader who waits; none for work where only the
            end counts.
        mask: What the output may be. It has a state: it follows this request alone, from before its first token.
    """

    key: str
    prompt: str | tuple[int, ...]
    sampling: Sampling
    seed: int = 0
    prefix_hashes: tuple[str, ...] = ()
    prefix_ends: tuple[int, ...] = ()
    deadline: float = float("inf")
    salt: str = ""
    output_ids: tuple[int, ...] = ()
    tpot_target_s: float | None = None
    mask: LogitsMask | None = None

    @property
    def text(self) -> str:
        """The prompt as text.

        Raises:
            TypeError: It is token ids.
        """
        if not isinstance(self.prompt, str):
            raise TypeError(f"the prompt of {self.key!r} is token ids, not text")
        return self.prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillRequest:
    """The beginning of a prompt that will most likely come.

    Attributes:
        key: The request that will have this prompt.
        prompt: Its beginning, as in a request.
        prefix_hashes: As in a request.
        prefix_ends: As in a request.
        salt: As in a request.
    """

    key: str
    prompt: str | tuple[int, ...]
    prefix_hashes: tuple[str, ...] = ()
    prefix_ends: tuple[int, ...] = ()
    salt: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt has been read.

    Attributes:
        key: The request.
        num_prompt_tokens: Tokens of its prompt.
        num_shared_tokens: Of these, tokens that were not computed for this request, since they were computed already.
        num_prefilled_tokens: Of the shared ones, tokens that were computed ahead for this very request.
        text: The text that an earlier attempt's tokens make certain: the deltas go on behind it.
    """

    key: str
    num_prompt_tokens: int
    num_shared_tokens: int
    num_prefilled_tokens: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """New text, never empty. The text of a request's `Started` and its deltas, joined, are the text of its `Finished`.

    Attributes:
        key: The request.
        text: The new characters; whole ones, and none that could still turn out to begin a stop string.
        offset: Characters (Unicode code points) of the output before this text.
        logprobs: If asked for, of the tokens that were sampled since the delta before. Those after the last delta, such
            as the end of the text, are only in `Finished`.
        output_ids: Tokens sampled since the delta before. Who has those of all deltas can go on from there.
    """

    key: str
    text: str
    offset: int
    logprobs: tuple[TokenLogprob, ...] = ()
    output_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The text is complete.

    Attributes:
        key: The request.
        text: The output, without the stop string that ended it.
        finish_reason: What ended it.
        num_prompt_tokens: Tokens of its prompt.
        num_shared_tokens: As in `Started`.
        num_prefilled_tokens: As in `Started`.
        num_output_tokens: Tokens of the output, those of an earlier attempt and the end-of-sequence token counted.
        output_ids: These tokens.
        logprobs: If asked for, of the tokens that this engine sampled, so not of an earlier attempt's.
    """

    key: str
    text: str
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_shared_tokens: int
    num_output_tokens: int
    num_prefilled_tokens: int = 0
    output_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The request was given up. A cancelled one ends so too, with `TaskCancelled`."""

    key: str
    error: ParrotError


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The beginning of a prompt is computed: what there was to compute of a `PrefillRequest`."""

    key: str


EngineEvent: TypeAlias = Started | Delta | Finished | Failed | Prefilled


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatistics:
    """What an engine is doing now, and what it has done since it was made.

    Sums divided by `num_steps` are means; two records, one after the other, give rates.

    Attributes:
        num_running: Requests that hold a slot.
        num_waiting: Requests that wait for one.
        num_batches: Groups of requests that were started together.
        num_preemptions: Requests that lost their pages to others and began again.
        num_prompt_tokens: Tokens of the prompts that were started.
        num_shared_tokens: Of these, tokens that were not computed again because another request had them.
        num_copied_tokens: Of the shared ones, tokens whose K/V were copied: the prompts part inside a page.
        num_computed_tokens: Tokens that went through the model.
        num_prefilled_tokens: Of these, tokens of prompts that had not come yet.
        num_output_tokens: Tokens that were sampled.
        num_steps: Steps that had work.
        num_batched: Sequences in a step, summed over the steps.
        num_levels: Levels of shared segments that attention used, summed over the steps.
        num_read_tokens: Tokens whose K/V attention read, a shared segment once for all that share it.
        num_flat_tokens: What it would have read without levels.
        step_s: Seconds that the steps took, summed.
        last_step_s: Seconds of the last step.
        last_batch_size: Sequences in the last step.
        page_size: Tokens in a page; 0 if the engine has no pages.
        num_pages: Pages of the KV cache.
        num_free_pages: Pages that nobody uses.
        num_cached_pages: Pages that only the prefix tree holds: they can be evicted.
        num_pinned_pages: Of the cached ones, pages that unfinished tasks need: evicted last.
        num_evicted_pages: Pages that were taken from the tree for something else.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_batches: int = 0
    num_preemptions: int = 0
    num_prompt_tokens: int = 0
    num_shared_tokens: int = 0
    num_copied_tokens: int = 0
    num_computed_tokens: int = 0
    num_prefilled_tokens: int = 0
    num_output_tokens: int = 0
    num_steps: int = 0
    num_batched: int = 0
    num_levels: int = 0
    num_read_tokens: int = 0
    num_flat_tokens: int = 0
    step_s: float = 0.0
    last_step_s: float = 0.0
    last_batch_size: int = 0
    page_size: int = 0
    num_pages: int = 0
    num_free_pages: int = 0
    num_cached_pages: int = 0
    num_pinned_pages: int = 0
    num_evicted_pages: int = 0


class Engine(Protocol):
    """Turns requests into events.

    Every submitted request ends exactly once, with `Finished` or `Failed`; before that it may have one `Started` and
    then any number of `Delta`. Nothing that is wrong with a request is raised: it comes as its `Failed`. If `step`
    raises, the engine is broken and its requests are lost.

    Thread: all calls from one thread.
    """

    @property
    def num_slots(self) -> int:
        """Requests that run at a time; more wait."""

    @property
    def max_context_tokens(self) -> int:
        """Most tokens of prompt and output together."""

    @property
    def has_work(self) -> bool:
        """True while `step` has something to do or an event to tell."""

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """Take requests; they start in order as slots come free.

        Requests handed over together are started together as far as slots allow, so that they share their prefixes.
        A key that has not ended yet is ignored, so submitting twice does no harm.
        """

    def cancel(self, keys: Iterable[str]) -> None:
        """Give up requests at once: they hold no slot any more, and the next step tells `Failed(TaskCancelled)`.

        Keys that are not known, or ended already, are ignored. A cancelled key may be submitted again.
        """

    def pin(self, names: Iterable[str]) -> None:
        """Keep prefixes that unfinished tasks need, by their hashes: the complete set, which replaces the former one.

        What is not pinned is evicted first. Hashes that are not known yet count once a request brings them.
        """

    def prefill(self, requests: Sequence[PrefillRequest]) -> None:
        """Compute the beginnings of prompts that will most likely come: the complete set, which replaces the former.

        The most urgent come first. They are computed in what steps have left, and in pages that are free or that nobody
        needs; each tells `Prefilled` when it is. What is not named any more is given up. A hint: what cannot be
        computed is left out, and nobody is told.
        """

    def step(self) -> list[EngineEvent]:
        """Advance every running request by one token: schedule, forward, sample. Without work it returns nothing."""

    def statistics(self) -> EngineStatistics:
        """Count what is going on."""

    def check_integrity(self) -> None:
        """Prove the engine's own rules. May take a while: to be called when there is nothing else to do.

        Raises:
            AssertionError: Something is broken.
        """
