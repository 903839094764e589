"""What a pipeline is: where events come from, what is read of them, what is made of it, where it goes."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from parrot_mq.bus.matching import check_filter, check_subject, matches
from parrot_mq.errors import InvalidName, PipelineError
from parrot_mq.pipelines.events import EventFormat
from parrot_mq.pipelines.mapping import Field
from parrot_mq.program import NativeFunction, SemanticFunction
from parrot_mq.program.pointer import parse_pointer
from parrot_mq.types import check_name

__all__ = ["Limits", "Pipeline", "Result", "Source", "mqtt_subject", "pipeline"]

Program = Callable[..., Awaitable[Any]]
"""Takes the texts of the inputs by name, calls semantic and native functions, and returns what is published: texts,
semantic variables, numbers, and lists and objects of them. It is run anew whenever its event is delivered again, and
has to make the same calls then; what was generated before is not generated again."""

AnyFunction = SemanticFunction[...] | NativeFunction[..., Any]
"""What is one call."""

MAX_NAME = 31


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where events come from: a stream, a subject, or an MQTT topic.

    Attributes:
        stream: A JetStream stream. Delivery: at least once; what is not done when a process ends is done by the next.
        subject: Which subjects of the stream; without a stream, a subject of core NATS. Delivery: at most once then.
        mqtt: A topic of the server's MQTT gateway, which is a subject of core NATS. Delivery: at most once.
        id: JSON pointer to what tells events apart. Without it: the id of a CloudEvent, or the place in the stream.
        ack_wait_s: Seconds after which events of a killed process are delivered again.
    """

    stream: str = ""
    subject: str = ""
    mqtt: str = ""
    id: str = ""
    ack_wait_s: float = 30.0

    def __post_init__(self) -> None:
        if bool(self.mqtt) == bool(self.stream or self.subject):
            raise ValueError("say where events come from: `stream` (with or without `subject`), `subject` or `mqtt`")
        parse_pointer(self.id)
        if self.stream:
            check_name("stream", self.stream)
        if self.filter:
            check_filter(self.filter)
        if not 0.5 <= self.ack_wait_s <= 3600:
            raise ValueError(f"ack_wait_s is between 0.5 and 3600 seconds, got {self.ack_wait_s:g}")

    @property
    def filter(self) -> str:
        """The subjects that are listened to; empty for all of a stream."""
        return mqtt_subject(self.mqtt) if self.mqtt else self.subject


def mqtt_subject(topic: str) -> str:
    """The subject of an MQTT topic, as the gateway of nats-server has it; `+` and `#` become wildcards.

    Raises:
        InvalidName: There is no such subject.
    """
    if topic.startswith("/") or topic.endswith("/") or "//" in topic or any(each in topic for each in " *>"):
        raise InvalidName(kind="MQTT topic", name=topic, rule="use levels without ` `, `*` and `>`, joined by single /")
    return ".".join({"+": "*", "#": ">"}.get(level, level.replace(".", "//")) for level in topic.split("/"))


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where results go.

    Attributes:
        subject: Where they are published.
        stored: Whether a stream takes them, and acknowledges each; once for each event within its duplicate window.
            Otherwise they reach whoever listens. Delivery: at most once then.
        format: Plain JSON, or a CloudEvent in binary or structured mode.
        type: Type of the CloudEvent; by default `<name of the pipeline>.result`.
    """

    subject: str
    stored: bool = True
    format: EventFormat = "cloudevents"
    type: str = ""

    def __post_init__(self) -> None:
        check_subject(self.subject)


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a process takes on.

    Attributes:
        concurrency: Events that one process works on at a time; the others wait where they are.
        timeout_s: Seconds that each generation may take.
        max_attempts: So often an event is tried while what stands against it may pass (a server that is away, no room).
    """

    concurrency: int = 64
    timeout_s: float = 600.0
    max_attempts: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= 10_000:
            raise ValueError(f"concurrency is between 1 and 10000, got {self.concurrency}")
        if not 0 < self.timeout_s <= 7 * 86400:
            raise ValueError(f"timeout_s is above 0 and at most a week, got {self.timeout_s:g}")
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts is at least 1, got {self.max_attempts}")


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """From events to results.

    Attributes:
        name: Of its consumer, its sessions and its dead letters; at most 31 characters.
        source: Where events come from.
        inputs: What is read of an event, by name of the program's parameter.
        program: What is made of it.
        result: Where that goes.
        limits: How much a process takes on.
        model: Who generates, for functions that name no model.

    Raises:
        PipelineError: The program does not take the inputs; or a setting cannot be used.
    """

    name: str
    source: Source
    inputs: Mapping[str, Field]
    program: Program
    result: Result
    limits: Limits = field(default_factory=Limits)
    model: str = ""

    def __post_init__(self) -> None:
        check_name("pipeline", self.name)
        if len(self.name) > MAX_NAME:
            raise self._mistake(f"the name has {len(self.name)} characters", f"use at most {MAX_NAME}")
        if self.source.filter and matches(self.source.filter, self.result.subject):
            raise self.circle()
        try:
            inspect.signature(self.program).bind(**self.inputs)
        except TypeError as error:
            takes = ", ".join(inspect.signature(self.program).parameters) or "nothing"
            remedy = f"name the inputs as its parameters: {takes}"
            raise self._mistake(f"the program does not take the inputs: {error}", remedy) from None

    def circle(self) -> PipelineError:
        """The error that results would be events again."""
        return self._mistake("results would be events again", "publish them on another subject")

    def _mistake(self, problem: str, remedy: str) -> PipelineError:
        return PipelineError(where=f"pipeline {self.name!r}", problem=problem, remedy=remedy)


def pipeline(
    *,
    source: Source,
    result: Result,
    inputs: Mapping[str, str | Field],
    name: str = "",
    limits: Limits | None = None,
    model: str = "",
) -> Callable[[Program | AnyFunction], Pipeline]:
    """Make a pipeline of an async function, or of one semantic or native function.

    Args:
        source: Where events come from.
        result: Where results go.
        inputs: JSON pointers into the event, by name of the parameter.
        name: Of the pipeline; the function's own name if empty.
        limits: How much a process takes on.
        model: Who generates, for functions that name no model.

    Raises:
        PipelineError: The function does not take the inputs, or a setting cannot be used.

    Example:
        ```python
        @pipeline(
            source=Source(stream="TICKETS", id="/id"),
            inputs={"text": "/text"},
            result=Result(subject="tickets.triaged"),
        )
        async def triage(text: str) -> dict[str, object]:
            return {"area": classify(text=text)}
        ```
    """

    def decorate(function: Program | AnyFunction) -> Pipeline:
        program = _outputs_of(function) if isinstance(function, SemanticFunction | NativeFunction) else function
        chosen = name or function.__name__
        try:
            fields = {key: Field(pointer=each) if isinstance(each, str) else each for key, each in inputs.items()}
        except ValueError as error:
            remedy = "see RFC 6901 for JSON pointers"
            raise PipelineError(where=f"pipeline {chosen!r}", problem=str(error), remedy=remedy) from error
        return Pipeline(
            name=chosen,
            source=source,
            inputs=fields,
            program=program,
            result=result,
            limits=limits or Limits(),
            model=model,
        )

    return decorate


def _outputs_of(function: AnyFunction) -> Program:
    """A program that calls one function and gives all of its outputs."""

    async def program(**texts: str) -> dict[str, Any]:
        return dict(zip(function.spec.outputs, function.outputs(**texts), strict=True))

    parameters = [
        inspect.Parameter(
            each,
            inspect.Parameter.KEYWORD_ONLY,
            default=function.spec.defaults.get(each, inspect.Parameter.empty),
        )
        for each in function.spec.separators
    ]
    program.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return program
