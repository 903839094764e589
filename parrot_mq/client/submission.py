"""From a call to what is published: a task, and the texts that go ahead of it as variables."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from parrot_mq.messages import (
    InputValue,
    NativeTask,
    OutputSpec,
    PromptTask,
    ResultSpec,
    TaskRecord,
    VariableRef,
)
from parrot_mq.program import Call, FunctionCall, InputText, ListVariable, PromptCall, SemanticVariable

__all__ = ["MAX_INLINE_INPUT", "MAX_INLINE_INPUTS", "Submission", "make_submission"]

MAX_INLINE_INPUT = 16 * 1024
"""Characters. Longer texts are set as variables of their own: sent once, however many calls read them."""
MAX_INLINE_INPUTS = 128 * 1024
"""Characters of all texts inside one task, so that many short ones do not make it too large to be sent."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A task on its way.

    Attributes:
        task: Its name.
        record: What is published.
        texts: Variables that it reads and that are set with it; the name says what the text is.
    """

    task: str
    record: TaskRecord
    texts: Mapping[str, str]

    @property
    def outputs(self) -> list[str]:
        """The variables that it writes, in their order."""
        return [output.variable for output in self.record.outputs.values()]

    @property
    def chained_outputs(self) -> list[str]:
        """Those of them that the next one goes on from: of a prompt, all but the last, and none that is transformed."""
        if not isinstance(self.record, PromptTask) or self.record.each:
            return []
        return [output.variable for output in list(self.record.outputs.values())[:-1] if not output.transforms]


def make_submission(call: Call, names: Mapping[str, str], *, task: str, model: str, timeout_s: float) -> Submission:
    """Write a call down.

    Args:
        names: Which variable each output fills.
        model: Who generates, if the call does not say it.
    """
    writer = _InputWriter()
    inputs: dict[str, InputValue] = {
        name: VariableRef(value.id) if name in call.each and isinstance(value, ListVariable) else writer.write(value)
        for name, value in call.inputs.items()
    }
    match call:
        case PromptCall():
            record: TaskRecord = _prompt_task(call, inputs, names, model=model, timeout_s=timeout_s)
        case FunctionCall():
            record = _native_task(call, inputs, names, timeout_s=timeout_s)
        case _:
            raise TypeError(f"{call!r} cannot be submitted")
    return Submission(task, record, writer.texts)


def _prompt_task(
    call: PromptCall, inputs: dict[str, InputValue], names: Mapping[str, str], *, model: str, timeout_s: float
) -> PromptTask:
    spec = call.spec
    return PromptTask(
        template=call.template,
        inputs=inputs,
        outputs={
            output: OutputSpec(
                variable=names[output],
                sampling=sampling,
                objective=spec.objectives.get(output),
                transforms=list(spec.transforms_of(output)),
            )
            for output, sampling in spec.outputs.items()
        },
        separators=call.separators,
        each=list(call.each),
        model=call.model or model,
        timeout_s=timeout_s,
        function=call.name,
    )


def _native_task(
    call: FunctionCall, inputs: dict[str, InputValue], names: Mapping[str, str], *, timeout_s: float
) -> NativeTask:
    return NativeTask(
        function=call.name if call.chosen_by is None else VariableRef(call.chosen_by.id),
        choices=list(call.choices),
        inputs=inputs,
        outputs={
            output: ResultSpec(variable=names[output], transforms=list(transforms))
            for output, transforms in call.spec.outputs.items()
        },
        separators=call.separators,
        each=list(call.each),
        timeout_s=timeout_s,
        attempt_timeout_s=min(call.attempt_timeout_s, timeout_s),
        max_attempts=call.max_attempts,
    )


class _InputWriter:
    """Writes the inputs of one call, and keeps the texts that it put into variables."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self._num_free = MAX_INLINE_INPUTS

    def write(self, value: InputText) -> InputValue:
        if isinstance(value, tuple):
            return [self._write_item(item) for item in value]
        return self._write_item(value)

    def _write_item(self, item: str | SemanticVariable) -> str | VariableRef:
        if isinstance(item, SemanticVariable):
            return VariableRef(item.id, items=isinstance(item, ListVariable))
        if len(item) <= min(MAX_INLINE_INPUT, self._num_free):
            self._num_free -= len(item)
            return item
        name = f"text-{hashlib.sha256(item.encode()).hexdigest()[:40]}"
        self.texts[name] = item
        return VariableRef(name)
