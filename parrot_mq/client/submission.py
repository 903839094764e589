"""From a call to what is published: a task, and the texts that go ahead of it as variables."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from parrot_mq.messages import InputValue, OutputSpec, PromptTask, VariableRef
from parrot_mq.program import Call, InputText, SemanticVariable

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
    record: PromptTask
    texts: Mapping[str, str]

    @property
    def outputs(self) -> list[str]:
        """The variables that it writes, in the order of the template."""
        return [output.variable for output in self.record.outputs.values()]


def make_submission(call: Call, names: Mapping[str, str], *, task: str, model: str, timeout_s: float) -> Submission:
    """Write a call down; `names` says which variable each output fills."""
    writer = _InputWriter()
    record = PromptTask(
        template=call.template,
        inputs={name: writer.write(value) for name, value in call.inputs.items()},
        outputs={output: _describe(call, output, names[output]) for output in call.spec.outputs},
        separators=call.separators,
        model=model,
        timeout_s=timeout_s,
        function=call.name,
    )
    return Submission(task, record, writer.texts)


def _describe(call: Call, output: str, variable: str) -> OutputSpec:
    spec = call.spec
    return OutputSpec(variable=variable, sampling=spec.outputs[output], objective=spec.objectives.get(output))


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
            return VariableRef(item.id)
        if len(item) <= min(MAX_INLINE_INPUT, self._num_free):
            self._num_free -= len(item)
            return item
        name = f"text-{hashlib.sha256(item.encode()).hexdigest()[:40]}"
        self.texts[name] = item
        return VariableRef(name)
