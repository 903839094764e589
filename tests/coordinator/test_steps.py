"""What a task is cut into: generations, calls, transforms, and maps whose size comes with their lists. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from parrot_mq.coordinator import PlannedGeneration, plan_task
from parrot_mq.coordinator.sessions.planning import expand_map
from parrot_mq.coordinator.sessions.steps import (
    Items,
    PlannedCall,
    PlannedList,
    PlannedMap,
    PlannedTransform,
    Step,
    fill,
)
from parrot_mq.errors import InvalidName, MalformedMessage, TemplateError, TransformError
from parrot_mq.messages import BlobRef, NativeTask, OutputSpec, PromptTask, ResultSpec, TaskRecord, VariableRef
from parrot_mq.program.transforms import JsonPointer, Split, Strip
from parrot_mq.types import Objective, VariableId
from tests.coordinator.programs import ref, task


def _native(**settings: Any) -> NativeTask:
    return NativeTask(**{"function": "search", "outputs": {"result": ResultSpec(variable="r")}, **settings})


def _by_name(record: TaskRecord) -> dict[str, Step]:
    return {str(step.writes): step for step in plan_task(record)}


def _transformed(template: str, outputs: Mapping[str, OutputSpec]) -> PromptTask:
    return PromptTask(template=template, outputs=dict(outputs))


# -- transforms ------------------------------------------------------------------------------------------------------


def test_what_has_transforms_is_generated_under_another_name() -> None:
    steps = _by_name(_transformed("A{{a}}", {"a": OutputSpec(variable="v", transforms=[Strip()])}))
    assert list(steps) == ["v-raw", "v"]
    assert steps["v"] == PlannedTransform(VariableId("v"), VariableId("v-raw"), (Strip(),))


def test_later_outputs_go_on_after_the_text_as_it_was_generated() -> None:
    outputs = {"a": OutputSpec(variable="v", transforms=[Strip()]), "b": OutputSpec(variable="w")}
    second = _by_name(_transformed("A{{a}}B{{b}}", outputs))["w"]
    assert isinstance(second, PlannedGeneration)
    assert second.segments == ("A", ref("v-raw"), "B")


def test_a_name_needs_room_for_its_ending() -> None:
    with pytest.raises(InvalidName):
        plan_task(_transformed("A{{a}}", {"a": OutputSpec(variable="v" * 61, transforms=[Strip()])}))
    with pytest.raises(InvalidName):
        plan_task(task("{{x}}{{out}}", reads={"x": ref("xs")}, writes="v" * 60, each=["x"]))


# -- lists -----------------------------------------------------------------------------------------------------------


def test_the_items_of_a_list_stand_where_it_is_read_with_the_separator_between_them() -> None:
    record = task("[{{x}}]{{out}}", reads={"x": ["a", VariableRef("xs", items=True)]}, separators={"x": "; "})
    (planned,) = plan_task(record)
    assert isinstance(planned, PlannedGeneration)
    assert planned.segments == ("[", "a", "; ", Items(VariableId("xs"), "; "), "]")
    assert planned.reads == ("xs",)
    assert "".join(map(str, fill(planned.segments, {}, {VariableId("xs"): ["b", "c"]}))) == "[a; b; c]"
    assert "".join(map(str, fill(planned.segments, {}, {VariableId("xs"): []}))) == "[a; ]"


def test_a_known_beginning_ends_before_a_list() -> None:
    (planned,) = plan_task(task("A{{x}}B{{out}}", reads={"x": VariableRef("xs", items=True)}))
    assert isinstance(planned, PlannedGeneration)
    values = {VariableId("xs"): '["b"]'}
    assert planned.known_prefixes(values) == planned.known_prefixes({})
    assert planned.known_segments(values, 1) == ("A",)
    assert planned.awaits(1) == "xs"


# -- native functions ------------------------------------------------------------------------------------------------


def test_a_call_with_one_output_fills_it_by_its_answer() -> None:
    (step,) = plan_task(_native(inputs={"query": ref("q"), "limit": "3"}, attempt_timeout_s=5.0, max_attempts=2))
    assert isinstance(step, PlannedCall)
    assert (step.writes, step.function, step.reads) == ("r", "search", ("q",))
    assert step.arguments == {"query": (ref("q"),), "limit": ("3",)}
    assert (step.attempt_timeout_s, step.max_attempts) == (5.0, 2)


def test_a_call_with_several_outputs_is_taken_apart() -> None:
    outputs = {"a": ResultSpec(variable="va"), "b": ResultSpec(variable="vb", transforms=[Split()])}
    steps = _by_name(_native(outputs=outputs))
    assert list(steps) == ["va-raw", "va", "vb"]
    assert steps["vb"] == PlannedTransform(VariableId("vb"), VariableId("va-raw"), (JsonPointer(pointer="/b"), Split()))


def test_a_call_whose_function_a_variable_names_waits_for_it() -> None:
    (step,) = plan_task(_native(function=ref("tool"), choices=["a", "b"], inputs={"x": ref("q")}))
    assert step.reads == ("tool", "q")


# -- maps ------------------------------------------------------------------------------------------------------------


def _map(**settings: Any) -> PromptTask:
    return task("{{t}}: {{x}}{{out}}", reads={"t": ref("topic"), "x": ref("xs")}, writes="v", each=["x"], **settings)


def test_a_map_waits_for_its_lists_only() -> None:
    assert plan_task(_map()) == (PlannedMap(VariableId("v"), (VariableId("xs"),)),)


@pytest.mark.parametrize("num_items", [0, 1, 3])
def test_a_map_has_a_step_for_each_item_and_one_that_gathers_them(num_items: int) -> None:
    *members, gathering = expand_map(_map(), {VariableId("xs"): [f"item {i}" for i in range(num_items)]})
    names = tuple(f"v-{index}" for index in range(num_items))
    assert gathering == PlannedList(VariableId("v"), tuple(VariableId(name) for name in names))
    assert tuple(each.writes for each in members) == names
    for index, member in enumerate(members):
        assert isinstance(member, PlannedGeneration)
        assert member.segments == (ref("topic"), ": ", f"item {index}")


def test_transforms_of_a_map_are_for_each_item() -> None:
    record = PromptTask(
        template="{{x}}{{out}}",
        inputs={"x": ref("xs")},
        outputs={"out": OutputSpec(variable="v", transforms=[Strip()], objective=Objective(kind="throughput"))},
        each=["x"],
    )
    assert [step.writes for step in expand_map(record, {VariableId("xs"): ["a", "b"]})] == [
        *("v-0-raw", "v-0", "v-1-raw", "v-1"),
        "v",
    ]


def test_native_functions_are_mapped_alike() -> None:
    record = _native(inputs={"query": ref("qs"), "limit": "3"}, each=["query"])
    first, second, gathering = expand_map(record, {VariableId("qs"): ["a", "b"]})
    assert isinstance(second, PlannedCall)
    assert (first.writes, second.writes, gathering.writes) == ("r-0", "r-1", "r")
    assert second.arguments == {"query": ("b",), "limit": ("3",)}


def test_lists_go_side_by_side_and_have_one_length() -> None:
    record = task("{{x}}{{y}}{{out}}", reads={"x": ref("xs"), "y": ref("ys")}, each=["x", "y"])
    xs, ys = VariableId("xs"), VariableId("ys")
    first, _, _ = expand_map(record, {xs: ["a", "b"], ys: ["1", "2"]})
    assert isinstance(first, PlannedGeneration)
    assert first.segments == ("a", "1")
    with pytest.raises(TransformError, match="'xs' has 1 items, 'ys' has 2 items"):
        expand_map(record, {xs: ["a"], ys: ["1", "2"]})


@pytest.mark.parametrize("value", ["text", [ref("xs")], None])
def test_what_is_gone_through_is_one_variable(value: Any) -> None:
    reads = {"x": value} if value is not None else {"y": "text"}
    with pytest.raises(MalformedMessage, match=r"\$\.each"):
        plan_task(task("{{x}}{{out}}", reads=reads, each=["x"]))


def test_a_mistake_in_the_template_of_a_map_is_found_before_its_lists_are_known() -> None:
    with pytest.raises(TemplateError):
        plan_task(task("{{x}} {{missing}} {{out}}", reads={"x": ref("xs")}, each=["x"]))


def test_a_large_value_stays_a_claim_check() -> None:
    blob = BlobRef(digest="0" * 64, size_bytes=9)
    assert fill((ref("v"), "!"), {VariableId("v"): blob}, {}) == (blob, "!")
