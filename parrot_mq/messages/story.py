"""What happened to the tasks of a session, for people and tools."""

from __future__ import annotations

from typing import Literal

import msgspec

from parrot_mq.messages.base import Message
from parrot_mq.messages.results import ErrorInfo, Usage
from parrot_mq.types import Objective

__all__ = ["Decision", "EventKind", "LostAttempt", "SessionStory", "TaskEvent", "TaskStory"]

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
            `assigned` that it was sent to a worker, or that a native function was called, `returned` that it came back
            from there unfinished.
        task: The task's id.
        variable: The output's variable.
        at: Seconds since 1970 on the sender's clock.
        function: Name of the semantic function (`submitted`).
        model: Who generates, if the task says (`submitted`).
        reads: Variables that the output waits for (`submitted`).
        worker: Who runs it (from `assigned` on), or computes ahead for it (`prefilling`). A call is assigned to nobody
            by name: the host that takes it says so (`started`).
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
        trace: Where the task belongs in a trace, as the header `traceparent`; empty if it is in none.
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
    trace: str = ""


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
