"""What coordinators and workers tell each other."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from parrot_mq.messages.base import Message, Name
from parrot_mq.messages.results import BlobRef, ErrorInfo
from parrot_mq.types import Objective, Sampling, TokenId

__all__ = [
    "Assign",
    "Assigned",
    "CancelGenerations",
    "EngineReport",
    "Generation",
    "GenerationProgress",
    "GenerationsReturned",
    "LoadProgress",
    "PinPrefixes",
    "Prefill",
    "PrefillAhead",
    "StandBy",
    "WorkerMessage",
    "WorkerStatus",
]


class Generation(Message, frozen=True, kw_only=True, omit_defaults=True, tag="generation"):
    """One output to generate: a prompt and where its text goes.

    Attributes:
        tenant: Whose it is.
        session: The session of the task; with tenant and variable it names the generation.
        task: The task's id.
        variable: The variable that the text goes to.
        attempt: Which attempt this is; 1 is the first.
        prompt: Indices into the segments that travel with it; their texts, joined, are the prompt.
        prefix_hashes: Hash of all content up to and including each segment, hex; equal hashes mean equal prefixes.
        sampling: How to generate.
        deadline: Seconds since 1970; it is not started after this.
        objective: What is wanted of it.
        salt: Generations with different salts share no cache: by default the tenant.
        output_ids: Tokens that an earlier attempt generated; the output goes on after them.
        trace: Where it belongs in a trace, as the header `traceparent`; empty if it is in none.
        trace_state: What vendors pass on with the trace, as the header `tracestate`.
    """

    tenant: str
    session: str
    task: str
    variable: str
    attempt: int
    prompt: list[int]
    prefix_hashes: list[str]
    sampling: Sampling
    deadline: float
    objective: Objective = Objective()
    salt: str = ""
    output_ids: list[TokenId] = []
    trace: str = ""
    trace_state: str = ""

    @property
    def key(self) -> str:
        """Names the generation everywhere: `tenant.session.variable`."""
        return f"{self.tenant}.{self.session}.{self.variable}"


class Assign(Message, frozen=True, kw_only=True, omit_defaults=True, tag="worker.assign"):
    """A prefix-grouped batch for one worker. Segments are listed once however many generations use them.

    Attributes:
        batch: Id of the batch.
        segments: Parts of prompts: texts, or claim checks of large ones.
        generations: What to generate from them.
    """

    batch: str
    segments: list[str | BlobRef]
    generations: list[Generation]


class Prefill(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The known beginning of a prompt whose rest is still being generated.

    Attributes:
        key: The generation that will have this prompt, as in `Generation.key`.
        prompt: Indices into the segments that travel with it.
        prefix_hashes: Hash of all content up to and including each of these segments.
        salt: As in a generation.
    """

    key: str
    prompt: list[int]
    prefix_hashes: list[str]
    salt: str = ""


class PrefillAhead(Message, frozen=True, kw_only=True, omit_defaults=True, tag="worker.prefill"):
    """Compute the beginnings of prompts that will most likely come here, when there is nothing better to do.

    The complete set, which replaces the former one: what is not named any more is given up, what is computed stays in
    the cache as long as there is room. A hint: one that is lost does no harm.

    Attributes:
        segments: Parts of prompts, each once.
        prefills: What to compute of them, the most urgent first.
    """

    segments: list[str | BlobRef] = []
    prefills: list[Prefill] = []


class Assigned(Message, frozen=True, kw_only=True, omit_defaults=True, tag="worker.assigned"):
    """The worker took the batch, but for the generations it names (by key) as refused.

    Attributes:
        refused: Keys of the generations that it did not take.
    """

    refused: list[str] = []


class CancelGenerations(Message, frozen=True, kw_only=True, omit_defaults=True, tag="worker.cancel"):
    """Stop these generations (by key); their outputs are set already.

    Attributes:
        keys: Keys of the generations.
    """

    keys: list[str]


class GenerationsReturned(Message, frozen=True, kw_only=True, omit_defaults=True, tag="worker.returned"):
    """A worker gives generations (by key) back unfinished: it drains, or had no room after all.

    Attributes:
        worker: The worker's id.
        model: The model it serves.
        keys: Keys of the generations.
        reason: Why it did not finish them.
    """

    worker: Name
    model: str
    keys: list[str]
    reason: ErrorInfo


class PinPrefixes(Message, frozen=True, kw_only=True, omit_defaults=True, tag="worker.pin"):
    """The prefixes that unfinished tasks need on this worker's model: the complete set, which replaces the former one.

    A hint: the worker's cache gives up everything else before them. One that is lost does no harm.

    Attributes:
        hashes: Prefix hashes as in a generation, those that most tasks need first.
    """

    hashes: list[str]


class StandBy(Message, frozen=True, kw_only=True, omit_defaults=True, tag="worker.standby"):
    """Take no new work for a while: finish what runs, and keep the model loaded.

    What an autoscaler says to a worker that it wants to stop, so that nothing has to be handed over, and so that it can
    be taken back at once when there is more to do.

    Attributes:
        duration_s: For so long from now on, so that nobody waits for ever for one who says no more. 0: take work again.
    """

    duration_s: Annotated[float, msgspec.Meta(ge=0, le=86400)]


class LoadProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a worker is with loading its model.

    Attributes:
        stage: What it is doing, for people.
        fraction: How much of the stage is done, 0 to 1.
    """

    stage: str
    fraction: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0


class EngineReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an engine is doing now, and what it has done since its model was loaded.

    Sums divided by `num_steps` are means; two reports, one after the other, give rates.

    Attributes:
        num_running: Generations that are being computed.
        num_waiting: Generations that wait in the engine.
        num_batches: Groups of generations that were started together.
        num_preemptions: Generations that lost their pages to others and began again.
        num_prompt_tokens: Tokens of the prompts that were started.
        num_shared_tokens: Of these, tokens that were not computed again because another generation had them.
        num_copied_tokens: Of the shared ones, tokens whose keys and values were copied to another page.
        num_computed_tokens: Tokens that went through the model.
        num_prefilled_tokens: Of these, tokens of prompts that had not come yet.
        num_output_tokens: Tokens that were generated.
        num_steps: Passes through the model.
        num_batched: Generations in a step, summed over the steps.
        num_levels: Levels of shared prefixes that attention used, summed over the steps.
        num_read_tokens: Tokens whose keys and values attention read, a shared one once for all that share it.
        num_flat_tokens: What it would have read without sharing.
        step_s: Seconds that the steps took, summed.
        last_step_s: Seconds of the last step.
        last_batch_size: Generations in the last step.
        page_size: Tokens in a page of the KV cache; 0 if the engine keeps no prefixes.
        num_pages: Pages of the KV cache.
        num_free_pages: Pages that nobody uses.
        num_cached_pages: Pages that are kept in case that they are needed again.
        num_pinned_pages: Of the cached ones, pages that unfinished tasks need.
        num_evicted_pages: Cached pages that were given up for something else.
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


class GenerationProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a worker is with a generation.

    Attributes:
        key: Which generation.
        attempt: Which attempt at it.
        begin: Tokens of the output before `output_ids`.
        output_ids: Tokens of the output from there on. Mostly only those that are new since the last heartbeat.
        num_prompt_tokens: Tokens of its prompt; 0 until it is read.
    """

    key: str
    attempt: int = 1
    begin: int = 0
    output_ids: list[TokenId] = []
    num_prompt_tokens: int = 0


class WorkerStatus(Message, frozen=True, kw_only=True, omit_defaults=True, tag="worker.status"):
    """Who a worker is, what it runs, what it has room for. Sent when it changes and as heartbeat.

    Attributes:
        worker: The worker's id.
        model: The model it serves.
        state: `loading` takes nothing yet; `standby` takes nothing for a while; `draining` takes nothing more.
        num_slots: Generations it runs at a time.
        max_context_tokens: Most tokens of prompt and output together.
        running: Keys of the generations it has (queued in the engine, or running).
        progress: How far it is with those of them of which there is something new.
        prefilled: Keys of the prefills that it has computed since the last heartbeat.
        loading: How far it is (`loading`).
        engine: What its engine does (once it is loaded).
        invocation: Names this run of its unit, if systemd runs it (`$INVOCATION_ID`).
    """

    worker: Name
    model: str
    state: Literal["loading", "ready", "standby", "draining", "stopped"]
    num_slots: int
    max_context_tokens: int = 0
    running: list[str] = []
    progress: list[GenerationProgress] = []
    prefilled: list[str] = []
    loading: LoadProgress | None = None
    engine: EngineReport | None = None
    invocation: str = ""


WorkerMessage = Assign | CancelGenerations | PinPrefixes | PrefillAhead | StandBy
"""What a worker is told."""
