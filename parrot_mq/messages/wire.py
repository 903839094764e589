"""The structured messages, each a typed struct.

The wire evolves by adding: new fields have defaults, names and tags stay. `type` on the wire is the tag. Unknown fields
are ignored, so an older reader understands a newer writer.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from parrot_mq.errors import ParrotError, rebuild_error
from parrot_mq.types import NAME_RULE, Objective, Sampling, TokenId, TokenLogprob

__all__ = [
    "Assign",
    "Assigned",
    "AutoscalerStatus",
    "BlobRef",
    "CancelGenerations",
    "CoordinatorLease",
    "CoordinatorStarted",
    "DeadTask",
    "Decision",
    "EngineReport",
    "ErrorInfo",
    "EventKind",
    "Generation",
    "GenerationProgress",
    "GenerationsReturned",
    "InputValue",
    "LoadProgress",
    "LostAttempt",
    "Message",
    "ModelDemand",
    "OutputSpec",
    "PinPrefixes",
    "Prefill",
    "PrefillAhead",
    "PromptTask",
    "ScalingDecision",
    "ServiceQuery",
    "ServiceReport",
    "SessionCancel",
    "SessionClose",
    "SessionExplain",
    "SessionMark",
    "SessionOpen",
    "SessionReply",
    "SessionStory",
    "SlotState",
    "SlotStatus",
    "StandBy",
    "TaskEvent",
    "TaskStory",
    "TenantDemand",
    "TokenDelta",
    "Usage",
    "VariableRef",
    "Work",
    "WorkerRate",
    "WorkerStatus",
]

NAME_PATTERN = r"^[A-Za-z0-9_-]{1,64}$(?!\n)"
"""In Python `$` alone would also match before a line break at the end."""

Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN, description=NAME_RULE)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Fact = str | int | float | bool | list[str] | None


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all structured messages."""


# -- programs submit -------------------------------------------------------------------------------------------------


class VariableRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stands for the value of a variable of the same session: `{"variable": "topic"}`.

    Attributes:
        variable: Its name.
    """

    variable: Name


InputValue = str | VariableRef | list[str | VariableRef]
"""A text, a variable, or a list of both whose values are joined by the input's separator."""


class OutputSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which variable an output placeholder fills, and how it is generated.

    Attributes:
        variable: Name of the variable, in the task's session.
        sampling: How it is generated.
        objective: What is wanted of it; without it that follows from who reads it.
    """

    variable: Name
    sampling: Sampling = Sampling()
    objective: Objective | None = None


class PromptTask(Message, frozen=True, kw_only=True, omit_defaults=True, tag="task.prompt"):
    """A prompt with placeholders: inputs are read, outputs are generated in the order of the template.

    Attributes:
        template: Text with `{{placeholders}}`; `{{{{` stands for `{{`.
        inputs: What fills each input placeholder.
        outputs: What each output placeholder fills.
        separators: Between the items of a list input, by placeholder; a line break where absent.
        model: Who generates; empty means the one model that is served.
        timeout_s: Seconds from the moment the server stored the task; then its outputs become `DeadlineExceeded`.
        function: Name of the semantic function it came from; for people and tools.
    """

    template: Annotated[str, msgspec.Meta(min_length=1)]
    outputs: Annotated[dict[Name, OutputSpec], msgspec.Meta(min_length=1)]
    inputs: dict[Name, InputValue] = {}
    separators: dict[Name, str] = {}
    model: Annotated[str, msgspec.Meta(max_length=256)] = ""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=7 * 86400)] = 600.0
    function: str = ""


class SessionOpen(Message, frozen=True, kw_only=True, omit_defaults=True, tag="session.open"):
    """Announce a session before its first call. Optional: a coordinator that saw a session start looks up less."""


class SessionCancel(Message, frozen=True, kw_only=True, omit_defaults=True, tag="session.cancel"):
    """Give up tasks: those that write `variables`, or all unfinished ones of the session when it is empty.

    Attributes:
        variables: Outputs whose tasks are given up; a task is given up with all its outputs.
    """

    variables: list[Name] = []


class SessionClose(Message, frozen=True, kw_only=True, omit_defaults=True, tag="session.close"):
    """End a session: unfinished tasks are cancelled and all its values removed."""


class SessionMark(Message, frozen=True, kw_only=True, omit_defaults=True, tag="session.mark"):
    """Say what is wanted of variables, also of such that nobody writes yet. It replaces what was said of them before.

    A hint: a coordinator that takes over does not know of it. What has to last is said in the task (`objective` of an
    output).

    Attributes:
        variables: Which variables.
        objective: What is wanted of each of them.
        only_unmarked: Leave those alone of which something was said before.
    """

    variables: list[Name] = []
    objective: Objective = Objective()
    only_unmarked: bool = False


class SessionExplain(Message, frozen=True, kw_only=True, omit_defaults=True, tag="session.explain"):
    """Ask what happened to the tasks of a session, and why.

    Attributes:
        begin: Where in the order of submission to begin: outputs before it, since the session began, are left out.
    """

    begin: Annotated[int, msgspec.Meta(ge=0)] = 0


class SessionReply(Message, frozen=True, kw_only=True, omit_defaults=True, tag="session.reply"):
    """What the coordinator did: how many tasks it gave up.

    Attributes:
        num_cancelled: Tasks that were unfinished, and are cancelled now.
    """

    num_cancelled: int = 0


# -- everyone reads --------------------------------------------------------------------------------------------------


class ErrorInfo(Message, frozen=True, kw_only=True, omit_defaults=True, tag="error"):
    """A failure as a value.

    Attributes:
        code: Stable name of the kind of error; `internal` is a mistake in the service.
        message: The sentence for a person.
        retryable: Whether the same attempt may succeed later.
        facts: What the sentence was made from, by name.
    """

    code: str
    message: str
    retryable: bool = False
    facts: dict[str, Fact] = {}

    @classmethod
    def from_error(cls, error: BaseException) -> ErrorInfo:
        """Describe any exception; one that is not ours becomes the code `internal`.

        Texts are made fit for the wire, so that a failure can always be told: valid Unicode, and not too long.
        """
        if isinstance(error, ParrotError):
            facts = {name: _fit_fact(value) for name, value in error.facts.items()}
            return cls(code=error.code, message=_fit(error.message), retryable=error.retryable, facts=facts)
        return cls(code="internal", message=_fit(f"{type(error).__name__}: {error}"))

    def to_error(self) -> ParrotError:
        """Rebuild the error of the same class; facts that cannot be attributes are left out."""
        facts = {name: value for name, value in self.facts.items() if name not in _RESERVED}
        return rebuild_error(self.code, self.message, facts)


_MAX_ERROR_TEXT = 4096
_MAX_ERROR_ITEM = 256
_MAX_ERROR_ITEMS = 128
_RESERVED = {*dir(OSError), *dir(ParrotError), "self", "message", "facts"}
"""Names that exceptions have already; whoever writes an error on the bus chooses the names of its facts."""


def _fit(text: str, max_characters: int = _MAX_ERROR_TEXT) -> str:
    text = text.encode(errors="replace").decode()
    return text if len(text) <= max_characters else f"{text[: max_characters - 1]}…"


def _fit_fact(value: Fact) -> Fact:
    match value:
        case str():
            return _fit(value)
        case list():
            return [_fit(item, _MAX_ERROR_ITEM) for item in value[:_MAX_ERROR_ITEMS]]
    return value


class BlobRef(Message, frozen=True, kw_only=True, omit_defaults=True, tag="blob"):
    """A claim check: the value is a blob.

    Attributes:
        digest: SHA-256 of the value's bytes, in hex.
        size_bytes: How many bytes they are.
    """

    digest: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
    size_bytes: Annotated[int, msgspec.Meta(ge=0)]


class TokenDelta(Message, frozen=True, kw_only=True, omit_defaults=True, tag="token.delta"):
    """New text of a variable that is being generated.

    Attributes:
        attempt: Which attempt at the task writes; 1 is the first.
        offset: Characters (Unicode code points) of the output before this text.
        text: The new characters.
        logprobs: If the sampling asks for them, of the tokens that came with the text, in their order. Tokens after the
            last text, such as the end of the text, are not told.
    """

    attempt: int
    offset: int
    text: str
    logprobs: list[TokenLogprob] = []


EventKind = Literal[
    "submitted", "ready", "prefilling", "assigned", "started", "finished", "failed", "rejected", "returned"
]
Decision = Literal["", "holder", "group", "replica", "session", "least_harm", "continued"]
"""Why a worker was chosen: it holds the prefix; the rest of the node group runs there; the prefix was brought there
because its holders were full; the session's last generation ran there; it harms least what runs there; it goes on with
what another worker began."""


class TaskEvent(Message, frozen=True, kw_only=True, omit_defaults=True, tag="task.event"):
    """What happened to one output of a task. For people and tools: nothing depends on it.

    Attributes:
        kind: `ready` means that its inputs are set, `prefilling` that the known part of its prompt is computed ahead,
            `assigned` that it was sent to a worker, `returned` that it came back from there unfinished.
        task: The task's id.
        variable: The output's variable.
        at: Seconds since 1970 on the sender's clock.
        function: Name of the semantic function (`submitted`).
        model: Who generates, if the task says (`submitted`).
        reads: Variables that the output waits for (`submitted`).
        worker: Who runs it (from `assigned` on), or computes ahead for it (`prefilling`).
        batch: Id of the batch it was assigned in (`assigned`).
        batch_size: Generations in that batch (`assigned`).
        prefix: Hash of the longest prefix that it had in common with others in its batch, or that its worker held
            (`assigned`).
        num_prompt_tokens: Tokens of its prompt (`started`, `finished`).
        num_shared_tokens: Of these, computed once for several tasks and not again for this one (`started`, `finished`).
        num_output_tokens: Tokens generated (`finished`).
        objective: What is wanted of it, as deduced so far (`ready`, `assigned`).
        group: The node group that it belongs to; empty if it is alone (`ready`, `assigned`).
        decision: Why this worker (`assigned`).
        reason: Why, in words (`assigned`, `returned`).
        attempt: Which attempt it is (`assigned`, `returned`).
        num_continued_tokens: Tokens that an earlier attempt had generated, and this one goes on after (`assigned`).
        num_prefilled_tokens: Of its prompt, tokens that were computed ahead for it (`started`, `finished`).
        error: Why (`failed`, `rejected`).
    """

    kind: EventKind
    task: str
    variable: str = ""
    at: float = 0.0
    function: str = ""
    model: str = ""
    reads: list[str] = []
    worker: str = ""
    batch: str = ""
    batch_size: int = 0
    prefix: str = ""
    num_prompt_tokens: int = 0
    num_shared_tokens: int = 0
    num_output_tokens: int = 0
    objective: Objective | None = None
    group: str = ""
    decision: Decision = ""
    reason: str = ""
    attempt: int = 0
    num_continued_tokens: int = 0
    num_prefilled_tokens: int = 0
    error: ErrorInfo | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a value cost. It travels as JSON in the header `Pmq-Usage` of the value, so it lasts as long as the value.

    Attributes:
        num_prompt_tokens: Tokens of the prompt.
        num_shared_tokens: Of these, tokens that were computed for another generation and not again.
        num_prefilled_tokens: Of the shared ones, tokens that were computed ahead for this very generation.
        num_output_tokens: Tokens generated.
        attempt: Which attempt it was.
        started_at: When the prompt had been read, seconds since 1970 on the worker's clock.
        finished_at: When the last token was there, on the same clock.
    """

    num_prompt_tokens: Count = 0
    num_shared_tokens: Count = 0
    num_prefilled_tokens: Count = 0
    num_output_tokens: Count = 0
    attempt: Count = 1
    started_at: float = 0.0
    finished_at: float = 0.0


class LostAttempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An assignment that did not lead to a value.

    Attributes:
        worker: Who had it.
        assigned_at: When it went there, seconds since 1970; 0 if that is not known.
        returned_at: When it came back, on the same clock; 0 if that is not known.
        reason: Why it came back.
    """

    worker: str
    assigned_at: float = 0.0
    returned_at: float = 0.0
    reason: str = ""


class TaskStory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened to one output of a task, and why. Times are seconds since 1970; 0 if it has not happened.

    Attributes:
        variable: The output.
        task: Its task.
        function: Name of the semantic function.
        model: Who generates.
        reads: Variables that it reads; the first 1,000 if there are more.
        state: How far it is.
        objective: What is wanted of it, as deduced.
        group: The node group that it belongs to; empty if it is alone.
        prefix: Hash of the longest prefix that it had in common with others in its batch, or that its worker held.
        submitted_at: The coordinator read the task.
        ready_at: All that it reads was set.
        last_input: The variable that came last; empty if it waited for none.
        prefilled_at: Its known part went to a worker ahead of time.
        prefilled_on: To this worker.
        assigned_at: It went to a worker.
        started_at: Its prompt had been read there.
        finished_at: Its value was stored, or its error.
        worker: Who runs it, or ran it.
        batch: The batch that it went in.
        batch_size: Generations in that batch.
        decision: Why this worker.
        reason: The same in words, and why it waited.
        attempts: How often it was assigned, as far as that counts.
        lost: Assignments that did not lead to a value, the newest ones.
        num_continued_tokens: Tokens that an earlier attempt had generated, and this one went on after.
        usage: What it cost.
        error: Why it failed.
    """

    variable: str
    task: str = ""
    function: str = ""
    model: str = ""
    reads: list[str] = []
    state: Literal["waiting", "ready", "assigned", "running", "finished", "failed"] = "waiting"
    objective: Objective | None = None
    group: str = ""
    prefix: str = ""
    submitted_at: float = 0.0
    ready_at: float = 0.0
    last_input: str = ""
    prefilled_at: float = 0.0
    prefilled_on: str = ""
    assigned_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    worker: str = ""
    batch: str = ""
    batch_size: int = 0
    decision: Decision = ""
    reason: str = ""
    attempts: int = 0
    lost: list[LostAttempt] = []
    num_continued_tokens: int = 0
    usage: Usage | None = None
    error: ErrorInfo | None = None


class SessionStory(Message, frozen=True, kw_only=True, omit_defaults=True, tag="session.story"):
    """What a coordinator remembers of a session: of its newest tasks, each output in the order of submission.

    Attributes:
        session: The session.
        node: The coordinator that answers; what happened before it took over is not in its memory.
        at: When it answered, seconds since 1970.
        stories: One for each output, in the order of submission. An answer has a bounded size.
        num_forgotten: Older outputs that are not remembered any more.
        next_begin: Where to begin to learn of further outputs; 0 if there are none.
    """

    session: str
    node: str = ""
    at: float = 0.0
    stories: list[TaskStory] = []
    num_forgotten: int = 0
    next_begin: int = 0


class DeadTask(Message, frozen=True, kw_only=True, omit_defaults=True, tag="task.dead"):
    """A task that was given up without a value for its outputs: why, and its record as it was submitted.

    Attributes:
        session: The session it was submitted to.
        task: The task's id.
        reason: Why it was given up.
        record: Its payload as text; bytes that are not UTF-8 are replaced.
    """

    session: str
    task: str
    reason: ErrorInfo
    record: str


# -- coordinator and workers -----------------------------------------------------------------------------------------


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


class CoordinatorLease(Message, frozen=True, kw_only=True, omit_defaults=True, tag="coordinator.lease"):
    """Who leads: the record that coordinators write in turn, each time as long as nobody else has written it.

    The holder writes it anew again and again. Another may write its own name as soon as this one was released, or has
    stood unchanged for `lease_s`; by then the holder has stopped to act.

    Attributes:
        holder: The process that leads, as host, process and a random part; empty if it has released the lease.
        lease_s: Seconds for which it holds after each writing.
        term: How often the lead was taken, this time included.
        since: When it was taken, seconds since 1970.
    """

    holder: str
    lease_s: float
    term: int
    since: float


class CoordinatorStarted(Message, frozen=True, kw_only=True, omit_defaults=True, tag="coordinator.started"):
    """A coordinator is up; workers answer at once with their status.

    Attributes:
        node: Name of its process; the first part of its actors' addresses.
    """

    node: Name


class ServiceQuery(Message, frozen=True, kw_only=True, omit_defaults=True, tag="service.query"):
    """Ask the coordinator's registry who is there."""


class Work(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An amount of work. Tokens are what is expected: prompts are measured in characters, outputs by `max_tokens`.

    Attributes:
        num_generations: How many generations it is.
        num_prefill_tokens: Tokens of their prompts that have to be computed: what several of them share counts once,
            and what a worker probably holds does not count.
        num_output_tokens: Tokens that they will generate, as far as these are not there yet.
    """

    num_generations: Count = 0
    num_prefill_tokens: Count = 0
    num_output_tokens: Count = 0


class TenantDemand(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one tenant has to do.

    Attributes:
        tenant: Who.
        num_ready: Generations that wait for a worker.
        num_running: Generations that a worker has.
    """

    tenant: Name
    num_ready: Count = 0
    num_running: Count = 0


class WorkerRate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one worker can do, learned from its heartbeats.

    Attributes:
        worker: The worker's id.
        num_slots: Generations that it runs at a time.
        num_running: Generations that it has.
        num_full: As many generations of the size that runs there now as it can run at a time: its slots, or fewer if
            its cache cannot hold so many.
        prefill_tokens_per_s: Tokens of prompts that it reads in a second, when it does nothing else; 0 until it worked.
        output_tokens_per_s: Tokens that it generates in a second with `num_full` generations; 0 until it worked.
    """

    worker: Name
    num_slots: Count = 0
    num_running: Count = 0
    num_full: Count = 0
    prefill_tokens_per_s: float = 0.0
    output_tokens_per_s: float = 0.0


class ModelDemand(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What there is to do for one model now, by its dispatcher's own ledger.

    Attributes:
        model: Which model.
        latency_ready: What waits for a worker and somebody waits for.
        latency_running: What workers have of it.
        throughput_ready: What waits for a worker and only has to be finished some time.
        throughput_running: What workers have of it.
        arrived: All that has become ready since `since`, with the tokens that had to be computed for it.
        finished: Of it, what is finished or not wanted any more.
        since: When the dispatcher began to count, seconds since 1970. Another time means that it began anew.
        oldest_wait_s: How long the generation that waits longest has waited.
        predicted_wait_s: How long one that came now would wait for a worker; None if there is no worker.
        tenants: Those who have something to do: at most 1,000, those with most of it.
        workers: What the ready workers can do.
    """

    model: str
    latency_ready: Work = Work()
    latency_running: Work = Work()
    throughput_ready: Work = Work()
    throughput_running: Work = Work()
    arrived: Work = Work()
    finished: Work = Work()
    since: float = 0.0
    oldest_wait_s: float = 0.0
    predicted_wait_s: float | None = None
    tenants: list[TenantDemand] = []
    workers: list[WorkerRate] = []


SlotState = Literal["off", "starting", "restarting", "running", "standby", "stopping", "failed", "unavailable"]
"""What runs in a slot: `restarting` waits for its next start after it ended by itself; `unavailable` cannot start."""


class SlotStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A place on a machine where a worker may run.

    Attributes:
        slot: Its number.
        unit: The unit that runs there.
        model: What a worker there serves.
        state: What it does.
        owner: Who started it: only what the autoscaler started is stopped by it. Empty if nothing runs.
        worker: The worker's id, if it was heard of.
        since: When this run began, seconds since 1970.
        num_restarts: How often it was restarted since.
        held_until: Nothing is started there before, seconds since 1970.
        reason: Why it is held, or why it is to be stopped.
        status: What its process says of itself.
    """

    slot: Annotated[int, msgspec.Meta(ge=0)]
    unit: str
    model: str
    state: SlotState = "off"
    owner: Literal["", "autoscaler", "others"] = ""
    worker: str = ""
    since: float = 0.0
    num_restarts: int = 0
    held_until: float = 0.0
    reason: str = ""
    status: str = ""


class ScalingDecision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many workers a model should have, and why.

    Attributes:
        at: When it was decided, seconds since 1970.
        model: Which model.
        kind: What is decided, in a word.
        num_workers: Workers that there were, or were about to be.
        target: How many there should be now.
        wanted: How many the work calls for, which is reached in steps.
        reason: One sentence for people.
        actions: What follows from it, such as `start parrot-worker@0.service`.
    """

    at: float
    model: str
    kind: str
    num_workers: int
    target: int
    wanted: int
    reason: str = ""
    actions: list[str] = []


class AutoscalerStatus(Message, frozen=True, kw_only=True, omit_defaults=True, tag="autoscaler.status"):
    """What an autoscaler knows and does. It is sent from time to time; one that is not heard of is not there.

    The models that it can start workers for are served as long as it is there, even while no worker runs.

    Attributes:
        autoscaler: Who it is: the machine, and the user if it runs for one.
        at: When it was sent, seconds since 1970.
        models: Those that it starts workers for.
        is_dry_run: It only says what it would do.
        problem: Why it changes nothing at present; empty if all is well.
        slots: What runs in its slots.
        decisions: The newest decisions that changed something, or the reason of which changed; the newest last.
    """

    autoscaler: str
    at: float = 0.0
    models: list[str] = []
    is_dry_run: bool = False
    problem: str = ""
    slots: list[SlotStatus] = []
    decisions: list[ScalingDecision] = []


class ServiceReport(Message, frozen=True, kw_only=True, omit_defaults=True, tag="service.report"):
    """Who is there: the models that are served, the last word of each worker, and how many tasks are unfinished.

    Attributes:
        models: The models that are served, sorted.
        workers: The last status of each worker whose lease lasts.
        num_unfinished: Tasks that are not finished, in all sessions.
        coordinator: The process that leads, as in `CoordinatorLease.holder`.
        demand: What there is to do for each model.
        at: When it answered, seconds since 1970.
        autoscalers: The last word of each autoscaler.
    """

    models: list[str] = []
    workers: list[WorkerStatus] = []
    num_unfinished: int = 0
    coordinator: str = ""
    demand: list[ModelDemand] = []
    at: float = 0.0
    autoscalers: list[AutoscalerStatus] = []
