"""From a task and the values it reads to something a worker can run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

from parrot_mq.messages import (
    BlobRef,
    ErrorInfo,
    Generation,
    NativeCall,
    OutputSpec,
    PromptTask,
    TaskAddress,
    Value,
    VariableAddress,
    VariableRef,
)
from parrot_mq.program import (
    OutputPlan,
    Placeholder,
    Standing,
    Text,
    chain_digests,
    parse_template,
    plan_outputs,
    segment_digest,
)
from parrot_mq.types import Sampling, TaskId, VariableId

__all__ = ["Known", "PlannedGeneration", "ReadyCall", "ReadyGeneration", "plan_task"]

Segment = str | VariableRef
"""A constant text, or a variable whose value stands here."""

Known = str | BlobRef
"""A value that can be part of a prompt."""


@dataclass(frozen=True, slots=True)
class ReadyGeneration:
    """A generation whose whole prompt is known.

    Attributes:
        address: The variable that it fills.
        task: The task that it belongs to.
        model: Who generates.
        segments: The prompt, cut at placeholder boundaries; large values as claim checks.
        prefix_hashes: Hash of all content up to and including each segment, hex.
        sampling: How to generate.
        deadline: Seconds since 1970; not started after this.
        standing: What is wanted of it, and its place in its program.
        salt: Generations with different salts share no cache.
        attempt: Which attempt the next assignment is; 1 is the first.
        output_ids: Tokens that earlier attempts generated.
    """

    address: VariableAddress
    task: TaskId
    model: str
    segments: tuple[Known, ...]
    prefix_hashes: tuple[str, ...]
    sampling: Sampling
    deadline: float
    standing: Standing = Standing()
    salt: str = ""
    attempt: int = 1
    output_ids: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """Names the generation everywhere, as `messages.Generation.key` does."""
        return ".".join(self.address)

    def next_attempt(self) -> ReadyGeneration:
        """The same generation, to be assigned once more."""
        return replace(self, attempt=self.attempt + 1)

    def to_wire(self, prompt: list[int]) -> Generation:
        """The generation as it travels; `prompt` are indices into the segments that travel with it."""
        tenant, session, variable = self.address
        return Generation(
            tenant=tenant,
            session=session,
            task=self.task,
            variable=variable,
            attempt=self.attempt,
            prompt=prompt,
            prefix_hashes=list(self.prefix_hashes),
            sampling=self.sampling,
            deadline=self.deadline,
            objective=self.standing.objective,
            salt=self.salt,
            output_ids=list(self.output_ids),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyCall:
    """A call of a native function whose arguments are all known.

    Attributes:
        address: The variable that the answer fills.
        task: The task that it belongs to.
        function: Name of the function.
        arguments: The arguments by name; large values as claim checks.
        outputs: Names of its results. Of several the answer is a JSON object with a text for each.
        deadline: Seconds since 1970; nobody waits for an answer after this.
        attempt_timeout_s: Seconds that one attempt may take.
        max_attempts: How often it is attempted at most.
    """

    address: VariableAddress
    task: TaskId
    function: str
    arguments: Mapping[str, Known]
    outputs: tuple[str, ...]
    deadline: float
    attempt_timeout_s: float
    max_attempts: int

    @property
    def key(self) -> str:
        """Names the call everywhere, as `messages.NativeCall.call` does."""
        return ".".join(self.address)

    def to_wire(self, attempt: int) -> NativeCall:
        """One attempt of it as it travels."""
        return NativeCall(
            call=self.key,
            function=self.function,
            arguments=dict(self.arguments),
            outputs=list(self.outputs),
            attempt=attempt,
            deadline=self.deadline,
        )


@dataclass(frozen=True, slots=True)
class PlannedGeneration:
    """One output of a task: where it goes, how it is sampled, and what its prompt is made of."""

    output: OutputSpec
    segments: tuple[Segment, ...]

    @property
    def reads(self) -> tuple[VariableId, ...]:
        """The variables it waits for, each once, in the order of the prompt."""
        names = (VariableId(segment.variable) for segment in self.segments if isinstance(segment, VariableRef))
        return tuple(dict.fromkeys(names))

    @property
    def writes(self) -> VariableId:
        """The variable it fills."""
        return VariableId(self.output.variable)

    def known_prefixes(self, values: Mapping[VariableId, Value], *, after: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Hash of all content up to and including each of the leading segments that are known.

        Args:
            values: The variables that are set; those that failed are never known.
            after: The first hashes, if they were found before.
        """
        return (*after, *chain_digests(self._known_digests(values, len(after)), after=after[-1] if after else ""))

    def known_segments(self, values: Mapping[VariableId, Value], num: int) -> tuple[Known, ...]:
        """The first `num` segments, which must be known."""
        known = (values[VariableId(s.variable)] if isinstance(s, VariableRef) else s for s in self.segments[:num])
        return tuple(segment for segment in known if not isinstance(segment, ErrorInfo))

    def awaits(self, num_known: int) -> VariableId | None:
        """The variable that stands next after the leading segments that are known."""
        following = self.segments[num_known] if num_known < len(self.segments) else None
        return VariableId(following.variable) if isinstance(following, VariableRef) else None

    def _known_digests(self, values: Mapping[VariableId, Value], begin: int) -> Iterator[bytes]:
        for segment in islice(self.segments, begin, None):
            value = values.get(VariableId(segment.variable)) if isinstance(segment, VariableRef) else segment
            if value is None or isinstance(value, ErrorInfo):
                return
            yield _digest(value)

    def to_ready(
        self,
        task: TaskAddress,
        model: str,
        deadline: float,
        values: Mapping[VariableId, Known],
        *,
        standing: Standing = Standing(),
        salt: str = "",
    ) -> ReadyGeneration:
        """Put the values in; every variable in `reads` must be among `values`."""
        segments = tuple(values[VariableId(s.variable)] if isinstance(s, VariableRef) else s for s in self.segments)
        return ReadyGeneration(
            address=VariableAddress(task.tenant, task.session, self.writes),
            task=task.task,
            model=model,
            segments=segments,
            prefix_hashes=tuple(chain_digests(_digest(segment) for segment in segments)),
            sampling=self.output.sampling,
            deadline=deadline,
            standing=standing,
            salt=salt,
        )


def plan_task(record: PromptTask) -> tuple[PlannedGeneration, ...]:
    """Cut a task into a chain of generations, one for each output.

    Raises:
        TemplateError: The template and the declared inputs and outputs do not fit.
    """
    plans = _cut(record.template, tuple(record.inputs), tuple(record.outputs))
    return tuple(PlannedGeneration(record.outputs[plan.output], tuple(_segments(plan, record))) for plan in plans)


@lru_cache(maxsize=1024)
def _cut(template: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> tuple[OutputPlan, ...]:
    return plan_outputs(parse_template(template), inputs=inputs, outputs=outputs)


def _segments(plan: OutputPlan, record: PromptTask) -> Iterator[Segment]:
    for part in plan.parts:
        match part:
            case Text(text=text):
                yield text
            case Placeholder(name=name) if name in record.outputs:
                yield VariableRef(record.outputs[name].variable)
            case Placeholder(name=name):
                yield from _items(record, name)


def _items(record: PromptTask, name: str) -> Iterator[Segment]:
    value = record.inputs[name]
    if not isinstance(value, list):
        yield value
        return
    for index, item in enumerate(value):
        if index:
            yield record.separators.get(name, "\n")
        yield item


def _digest(segment: Known) -> bytes:
    return bytes.fromhex(segment.digest) if isinstance(segment, BlobRef) else segment_digest(segment)
