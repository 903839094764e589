"""From a task to its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import msgspec

from parrot_mq.coordinator.sessions.steps import (
    Items,
    PlannedCall,
    PlannedGeneration,
    PlannedList,
    PlannedMap,
    PlannedTransform,
    Segment,
    Step,
)
from parrot_mq.errors import MalformedMessage, TransformError
from parrot_mq.messages import (
    InputValue,
    NativeTask,
    PromptTask,
    ResultSpec,
    TaskRecord,
    VariableRef,
    item_variable,
    raw_variable,
)
from parrot_mq.program import OutputPlan, Placeholder, Text, parse_template, plan_outputs
from parrot_mq.program.transforms import MAX_LIST_ITEMS, JsonPointer
from parrot_mq.types import VariableId

__all__ = ["expand_map", "plan_task"]


def plan_task(record: TaskRecord) -> tuple[Step, ...]:
    """Cut a task into steps, each of which fills one variable.

    A prompt is a chain of generations, one for each output. Whatever transforms are declared are steps of their own. A
    map is one step for each output at first; `expand_map` tells the others.

    Raises:
        TemplateError: The template and the declared inputs and outputs do not fit.
        MalformedMessage: `each` names something that is no list.
        InvalidName: There is no room for the ending in the name of an output that needs one.
    """
    if record.each:
        return tuple(_plan_map(record))
    return tuple(_plan_prompt(record) if isinstance(record, PromptTask) else _plan_call(record))


def expand_map(record: TaskRecord, lists: Mapping[VariableId, Sequence[str]]) -> tuple[Step, ...]:
    """The steps of a map.

    Args:
        record: The task.
        lists: The items of each list that is gone through.

    Returns:
        Those that make the items, and those that gather them, which replace the steps of the map itself.

    Raises:
        TransformError: The lists differ in length.
    """
    names = {name: _list_of(record, name) for name in record.each}
    lengths = {variable: len(lists[variable]) for variable in names.values()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{variable!r} has {length} items" for variable, length in lengths.items())
        raise TransformError(f"lists that are gone through side by side differ in length: {shown}")
    num_items = next(iter(lengths.values()))
    steps: list[Step] = []
    for index in range(num_items):
        steps += plan_task(_member(record, {name: lists[names[name]][index] for name in names}, index))
    for output in record.outputs.values():
        items = tuple(item_variable(output.variable, index) for index in range(num_items))
        steps.append(PlannedList(VariableId(output.variable), items))
    return tuple(steps)


# -- prompts ---------------------------------------------------------------------------------------------------------


def _plan_prompt(record: PromptTask) -> Iterator[Step]:
    for plan in _cut(record.template, tuple(record.inputs), tuple(record.outputs)):
        output = record.outputs[plan.output]
        yield PlannedGeneration(_generated(output), output.sampling, tuple(_segments(plan, record)))
        yield from _transforms(output)


@lru_cache(maxsize=1024)
def _cut(template: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> tuple[OutputPlan, ...]:
    return plan_outputs(parse_template(template), inputs=inputs, outputs=outputs)


def _segments(plan: OutputPlan, record: PromptTask) -> Iterator[Segment]:
    for part in plan.parts:
        match part:
            case Text(text=text):
                yield text
            case Placeholder(name=name) if name in record.outputs:
                yield VariableRef(_generated(record.outputs[name]))
            case Placeholder(name=name):
                yield from _parts(record, name)


def _parts(record: TaskRecord, name: str) -> Iterator[Segment]:
    """What stands where an input is."""
    value: InputValue = record.inputs[name]
    separator = record.separators.get(name, "\n")
    for index, item in enumerate(value if isinstance(value, list) else [value]):
        if index:
            yield separator
        if isinstance(item, VariableRef) and item.items:
            yield Items(VariableId(item.variable), separator)
        else:
            yield item


# -- native functions ------------------------------------------------------------------------------------------------


def _plan_call(record: NativeTask) -> Iterator[Step]:
    first, *others = record.outputs.values()
    writes = raw_variable(first.variable) if others else _generated(first)
    yield PlannedCall(
        writes=writes,
        function=record.function,
        choices=tuple(record.choices),
        arguments={name: tuple(_parts(record, name)) for name in record.inputs},
        outputs=tuple(record.outputs),
        attempt_timeout_s=record.attempt_timeout_s,
        max_attempts=record.max_attempts,
    )
    if not others:
        yield from _transforms(first)
        return
    for name, output in record.outputs.items():
        transforms = (JsonPointer(pointer=f"/{name}"), *output.transforms)
        yield PlannedTransform(VariableId(output.variable), writes, transforms)


# -- transforms and lists --------------------------------------------------------------------------------------------


def _generated(output: ResultSpec) -> VariableId:
    """The variable of the text as it comes."""
    return raw_variable(output.variable) if output.transforms else VariableId(output.variable)


def _transforms(output: ResultSpec) -> Iterator[Step]:
    if output.transforms:
        yield PlannedTransform(VariableId(output.variable), _generated(output), tuple(output.transforms))


def _plan_map(record: TaskRecord) -> Iterator[Step]:
    lists = tuple(dict.fromkeys(_list_of(record, name) for name in record.each))
    last = _member(record, dict.fromkeys(record.each, ""), MAX_LIST_ITEMS - 1)
    plan_task(last)  # what is wrong with the template or a name is said at once
    for output in record.outputs.values():
        yield PlannedMap(VariableId(output.variable), lists)


def _list_of(record: TaskRecord, name: str) -> VariableId:
    value = record.inputs.get(name)
    if not isinstance(value, VariableRef):
        known = ", ".join(record.inputs) or "none"
        problem = f"an input that is one variable, a list; the inputs are {known}"
        kind = str(record.__struct_config__.tag)
        raise MalformedMessage(message_type=kind, path="$.each", expected=f"Expected {problem}; got {name!r}")
    return VariableId(value.variable)


def _member(record: TaskRecord, items: Mapping[str, str], index: int) -> TaskRecord:
    """The task that makes one item of each output."""
    outputs = {
        name: msgspec.structs.replace(output, variable=item_variable(output.variable, index), objective=None)
        for name, output in record.outputs.items()
    }
    return msgspec.structs.replace(record, inputs={**record.inputs, **items}, outputs=outputs, each=[])
