"""What programs send: tasks, and requests about a session."""

from __future__ import annotations

from typing import Annotated

import msgspec

from parrot_mq.messages.base import Count, Message, Name
from parrot_mq.messages.results import BlobRef, ErrorInfo
from parrot_mq.program.transforms import MAX_TRANSFORMS, Transform
from parrot_mq.types import Objective, Sampling

__all__ = [
    "DeadEvent",
    "DeadTask",
    "InputValue",
    "NativeCall",
    "NativeRunning",
    "NativeTask",
    "OutputSpec",
    "PromptTask",
    "ResultSpec",
    "SessionCancel",
    "SessionClose",
    "SessionExplain",
    "SessionMark",
    "SessionOpen",
    "SessionReply",
    "TaskRecord",
    "VariableRef",
]

TimeoutS = Annotated[float, msgspec.Meta(gt=0, le=7 * 86400)]


class VariableRef(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Stands for the value of a variable of the same session: `{"variable": "topic"}`.

    Attributes:
        variable: Its name.
        items: The variable is a list, which is a JSON array of texts, and its items stand here, joined by the separator
            of the input.
    """

    variable: Name
    items: bool = False


InputValue = str | VariableRef | list[str | VariableRef]
"""A text, a variable, or a list of both whose values are joined by the input's separator."""


class ResultSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which variable a result fills.

    Attributes:
        variable: Name of the variable, in the task's session.
        objective: What is wanted of it; without it that follows from who reads it.
        transforms: What the coordinator makes of the text, one after the other. The text itself then fills the variable
            `<variable>-raw`. If they end in a list the variable is a JSON array of texts, and the variables
            `<variable>-0`, `<variable>-1`, … are its items.
    """

    variable: Name
    objective: Objective | None = None
    transforms: Annotated[list[Transform], msgspec.Meta(max_length=MAX_TRANSFORMS)] = []


class OutputSpec(ResultSpec, frozen=True, kw_only=True, omit_defaults=True):
    """Which variable an output placeholder fills, and how it is generated.

    Attributes:
        variable: Name of the variable, in the task's session.
        objective: What is wanted of it; without it that follows from who reads it.
        transforms: What the coordinator makes of the text, one after the other. The text itself then fills the variable
            `<variable>-raw`, which later outputs of the template go on after. If they end in a list the variable is a
            JSON array of texts, and the variables `<variable>-0`, `<variable>-1`, … are its items.
        sampling: How it is generated.
    """

    sampling: Sampling = Sampling()


class PromptTask(Message, frozen=True, kw_only=True, omit_defaults=True, tag="task.prompt"):
    """A prompt with placeholders: inputs are read, outputs are generated in the order of the template.

    Attributes:
        template: Text with `{{placeholders}}`; `{{{{` stands for `{{`.
        inputs: What fills each input placeholder.
        outputs: What each output placeholder fills.
        separators: Between the items of a list input, by placeholder; a line break where absent.
        each: Inputs that are lists and are gone through: the prompt runs once for each of their items, which are taken
            side by side, so all have the same length. Each names one variable, a JSON array of texts. The outputs are
            lists then, in the same order, with `<variable>-0`, `<variable>-1`, … as items.
        model: Who generates; empty means the one model that is served.
        timeout_s: Seconds from the moment the server stored the task; then its outputs become `DeadlineExceeded`.
        function: Name of the semantic function it came from; for people and tools.
    """

    template: Annotated[str, msgspec.Meta(min_length=1)]
    outputs: Annotated[dict[Name, OutputSpec], msgspec.Meta(min_length=1)]
    inputs: dict[Name, InputValue] = {}
    separators: dict[Name, str] = {}
    each: list[Name] = []
    model: Annotated[str, msgspec.Meta(max_length=256)] = ""
    timeout_s: TimeoutS = 600.0
    function: str = ""


class NativeTask(Message, frozen=True, kw_only=True, omit_defaults=True, tag="task.native"):
    """A call of a native function: a program that takes calls on `pmq.<tenant>.call.*.<function>`.

    Attributes:
        function: Its name, or the variable that says it: the value, without white space around it, is one of `choices`.
        choices: The functions that a variable may name; empty if `function` is a name.
        inputs: Its arguments by name.
        outputs: What its results fill. The answer to a call is the value of its one output; of several, a JSON object
            with a text for each.
        separators: Between the items of a list input, by argument; a line break where absent.
        each: As in a prompt task.
        timeout_s: Seconds from the moment the server stored the task; then its outputs become `DeadlineExceeded`.
        attempt_timeout_s: Seconds that one call may take.
        max_attempts: How often it is called at most: again when nobody answers in time, or with a retryable error.
    """

    function: Name | VariableRef
    outputs: Annotated[dict[Name, ResultSpec], msgspec.Meta(min_length=1)]
    choices: list[Name] = []
    inputs: dict[Name, InputValue] = {}
    separators: dict[Name, str] = {}
    each: list[Name] = []
    timeout_s: TimeoutS = 600.0
    attempt_timeout_s: TimeoutS = 60.0
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3

    def __post_init__(self) -> None:
        if isinstance(self.function, VariableRef) != bool(self.choices):
            raise ValueError("Expected `choices` exactly where `function` is a variable")


TaskRecord = PromptTask | NativeTask
"""What can be submitted."""


class NativeCall(Message, frozen=True, kw_only=True, omit_defaults=True, tag="native.call"):
    """One call of a native function, on `pmq.<tenant>.call.<session>.<function>`, with the subject for the answer.

    The answer is a value as on a variable: text, a claim check, or an error with `Pmq-Status: error`. With
    `Pmq-Status: running` it is a `native.running`, and the answer is still to come.

    Attributes:
        call: Names the call everywhere, however often it is attempted: `tenant.session.variable`.
        function: Name of the function.
        arguments: The arguments by name; large ones as claim checks.
        outputs: Names of its results.
        attempt: Which attempt this is; 1 is the first.
        deadline: Seconds since 1970; nobody waits for an answer after this.
    """

    call: str
    function: str
    arguments: dict[str, str | BlobRef]
    outputs: list[str]
    attempt: int = 1
    deadline: float = 0.0


class NativeRunning(Message, frozen=True, kw_only=True, omit_defaults=True, tag="native.running"):
    """Whoever runs a call is still there. Optional: who sends none is given up only when the call's time is over.

    It may carry a reply subject: an empty message there says that the result is not wanted any more.

    Attributes:
        host: Who runs it, for people.
        beat_s: Seconds until the next one; if three of them stay away the call is tried elsewhere.
    """

    host: str
    beat_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 1.0


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


class DeadEvent(Message, frozen=True, kw_only=True, omit_defaults=True, tag="pipeline.dead"):
    """An event that a pipeline gave up; on `pmq.<tenant>.dead.<pipeline>-<digest of the event's id>`.

    Attributes:
        pipeline: Whose event.
        event_id: What tells it apart from others.
        reason: Why it was given up.
        subject: Where it came from.
        payload: What it said.
        headers: Its headers.
        sequence: Its place in its stream; 0 if it came from none.
        is_cut: It was too large to be kept, so `payload` is missing; it cannot be worked on once more.
    """

    pipeline: str
    event_id: str
    reason: ErrorInfo
    subject: str
    payload: bytes = b""
    headers: dict[str, str] = {}
    sequence: Count = 0
    is_cut: bool = False
