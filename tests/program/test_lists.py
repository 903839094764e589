"""Lists in a program: what gives them, what takes them, and calls for each of their items."""

from __future__ import annotations

from typing import Annotated, Any, assert_type

import pytest

from parrot_mq.client.submission import make_submission
from parrot_mq.errors import CallError, ConfigurationError, InvalidName, TransformError
from parrot_mq.messages import NativeTask, OutputSpec, PromptTask, VariableRef, decode, encode
from parrot_mq.program import (
    Call,
    Input,
    Join,
    ListVariable,
    Output,
    Regex,
    SemanticVariable,
    Separator,
    Split,
    Strip,
    Transform,
    native_function,
    semantic_function,
)
from parrot_mq.types import Sampling
from tests.program.recording_session import RecordingSession


@semantic_function
def split(text: Input, parts: Output = Output(transform=[Strip(), Split()])) -> None:
    """{{text}}: {{parts}}"""


@semantic_function
def review(part: Annotated[Input, Separator("; ")], verdict: Output = Output(), style: Input = "dry") -> None:
    """{{part}} {{style}} {{verdict}}"""


@semantic_function
def rate(part: Input, score: Output = Output(transform=Regex(r"\d")), reason: Output = Output()) -> None:
    """{{part}} {{score}} {{reason}}"""


@native_function
def search(question: str, place: str = "here") -> list[str]:
    return [question]


@pytest.fixture
def session() -> RecordingSession:
    return RecordingSession()


def _record(call: Call) -> PromptTask | NativeTask:
    """What goes over the wire, as it is decoded there."""
    names = {output: f"v-{output}" for output in call.spec.outputs}
    submitted = make_submission(call, names, task="t", model="", timeout_s=60.0).record
    record: PromptTask | NativeTask = decode(encode(submitted), PromptTask | NativeTask)
    return record


# -- outputs with transforms -----------------------------------------------------------------------------------------


def test_transforms_are_part_of_an_output() -> None:
    one, several = Output(transform=Strip()), Output(transform=[Strip(), Split(",")])
    assert (one.transforms, several.transforms) == ((Strip(),), (Strip(), Split(",")))
    assert one == Output(transform=[Strip()]) != Output()
    assert len({one, several, Output(), Output(transform=(Strip(),))}) == 3
    assert repr(one) == "Output(transform=Strip(characters=''))"
    assert repr(Output(transform=[Strip("."), Join("")])).startswith("Output(transform=[Strip(characters='.'), Join(")


@pytest.mark.parametrize(
    ("transform", "problem"),
    [
        ("strip", "transform is one of Strip(), Regex(…), JsonPointer(…), Split(…) and Join(…), or a list of them"),
        (Strip, "transform is one of"),
        ([Strip(), "x"], "transform is one of"),
        ({Strip()}, "transform is one of"),
        (None, "transform is one of"),
        ([Strip()] * 17, "Expected `array` of length <= 16"),
        ([Strip(), Split("")], "Expected `str` of length >= 1 - at `$[1].separator`"),
        (Split(max_items=0), "Expected `int` >= 1 - at `$[0].max_items`"),
        (Split(max_items=10_001), "Expected `int` <= 10000 - at `$[0].max_items`"),
        (Join("x" * 257), "Expected `str` of length <= 256 - at `$[0].separator`"),
        (Strip("\ud800"), "surrogates not allowed"),
        (Strip(5), "Expected `str`, got `int` - at `$[0].characters`"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_transform_is_refused(transform: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Output(transform=transform)
    assert problem in raised.value.message
    assert raised.value.facts == {"argument": "transform"}


def test_transforms_go_over_the_wire() -> None:
    record = _record(rate.bind("x"))
    assert record.outputs == {
        "score": OutputSpec(variable="v-score", sampling=Sampling(), transforms=[Regex(r"\d")]),
        "reason": OutputSpec(variable="v-reason", sampling=Sampling()),
    }


def test_only_what_is_read_as_it_is_counts_as_read_by_the_next_output() -> None:
    @semantic_function
    def function(x: Input, a: Output = Output(), b: Output = Output(transform=Strip()), c: Output = Output()) -> None:
        """{{x}}{{a}}y{{b}}z{{c}}"""

    submission = make_submission(function.bind("x"), {n: n for n in "abc"}, task="t", model="", timeout_s=60.0)
    assert (submission.outputs, submission.chained_outputs) == (["a", "b", "c"], ["a"])


# -- lists -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transforms", "kind"),
    [
        ([], SemanticVariable),
        ([Strip()], SemanticVariable),
        ([Split()], ListVariable),
        ([Split(), Strip()], ListVariable),
        ([Regex("x", every=True)], ListVariable),
        ([Split(), Join()], SemanticVariable),
        ([Join(), Split()], ListVariable),
    ],
)
def test_an_output_whose_transforms_end_in_a_list_is_a_list_variable(
    transforms: list[Transform], kind: type[SemanticVariable], session: RecordingSession
) -> None:
    @semantic_function
    def function(text: Input, out: Output = Output(transform=transforms)) -> None:
        """{{text}}{{out}}"""

    assert type(function.using(session=session)("x")) is kind


async def test_a_type_checker_knows_what_is_a_list(session: RecordingSession) -> None:
    parts = split.using(session=session)("x").as_list()
    assert_type(parts, ListVariable)
    assert_type(parts.item(0), SemanticVariable)
    assert_type(review.using(session=session).map(part=parts, style="x"), ListVariable)
    assert_type(rate.using(session=session).map_outputs(parts), tuple[ListVariable, ...])
    await parts.set(["a"])
    assert_type(await parts, list[str])


async def test_a_list_is_awaited_set_and_named_item_by_item(session: RecordingSession) -> None:
    parts = ListVariable(session, "parts")
    await parts.set(["a", "b"])
    assert await parts == await parts.get(timeout_s=3) == ["a", "b"]
    assert session.timeouts_s == [None, 3]
    assert parts.item(7) == SemanticVariable(session, "parts-7")
    assert type(parts.item(7)) is SemanticVariable
    assert repr(parts) == "<ListVariable 'parts' of session 'demo'>"
    assert parts.as_list() is parts
    assert type(SemanticVariable(session, "parts").as_list()) is ListVariable
    session.texts["parts"] = "no list"
    with pytest.raises(TransformError, match="variable 'parts' is no list"):
        await parts


@pytest.mark.parametrize("index", [-1, 10_000, "0", 0.0])
def test_items_are_counted_from_0(index: Any, session: RecordingSession) -> None:
    with pytest.raises(CallError, match=r"has no item .*: items are counted from 0 to 9999; to count from the end"):
        ListVariable(session, "parts").item(index)


def test_an_item_has_a_name_that_can_be_used(session: RecordingSession) -> None:
    with pytest.raises(InvalidName):
        ListVariable(session, "x" * 63).item(0)


def test_a_list_as_an_input_is_its_items_with_the_separator_between_them(session: RecordingSession) -> None:
    parts = ListVariable(session, "parts")
    record = _record(review.bind(part=parts))
    assert record.inputs == {"part": VariableRef("parts", items=True), "style": "dry"}
    assert (record.separators, record.each) == ({"part": "; "}, [])
    assert _record(review.bind(part=SemanticVariable(session, "x"))).separators == {}


def test_a_list_inside_a_list_is_refused(session: RecordingSession) -> None:
    with pytest.raises(CallError) as raised:
        review.bind(part=["a", ListVariable(session, "parts")])
    sentence = (
        "argument `part`: item [1] of the list is <ListVariable 'parts' of session 'demo'> (lists cannot be nested); "
        "pass it as the argument itself, or some of its items: `variable.item(0)`"
    )
    assert sentence in raised.value.message


# -- maps ------------------------------------------------------------------------------------------------------------


def test_a_map_names_the_lists_that_it_goes_through(session: RecordingSession) -> None:
    verdicts = review.using(session=session).map(
        part=ListVariable(session, "parts"), style=SemanticVariable(session, "style")
    )
    assert type(verdicts) is ListVariable
    (call,) = session.calls
    record = _record(call)
    assert record.each == ["part"]
    assert record.inputs == {"part": VariableRef("parts"), "style": VariableRef("style")}
    assert record.separators == {}
    assert {variable.id for variable in call.reads()} == {"parts", "style"}


def test_several_outputs_are_a_list_each(session: RecordingSession) -> None:
    rate_here = rate.using(session=session)
    scores, reasons = rate_here.map_outputs(part=ListVariable(session, "parts"))
    assert (scores.id, reasons.id) == ("score", "reason")
    with pytest.raises(CallError, match=r"`rate\(part\)` has 2 outputs; write `score, reason = rate.map_outputs\(…\)`"):
        rate_here.map(part=ListVariable(session, "parts"))


def test_native_functions_are_mapped_alike(session: RecordingSession) -> None:
    found = search.using(session=session)("why")
    assert type(found) is ListVariable
    again = search.using(session=session).map(question=found.as_list(), place="there")
    assert type(again) is ListVariable
    record = _record(session.calls[1])
    assert isinstance(record, NativeTask)
    assert (record.each, record.inputs) == (["question"], {"question": VariableRef("result"), "place": "there"})


@pytest.mark.parametrize("part", ["text", ["a", "b"], ("a",)])
def test_a_map_without_a_list_variable_is_refused(part: Any, session: RecordingSession) -> None:
    with pytest.raises(CallError) as raised:
        review.using(session=session).map(part=part)
    assert "none of the arguments is a ListVariable; pass one; `variable.as_list()` says" in raised.value.message


def test_a_list_of_another_session_is_refused(session: RecordingSession) -> None:
    with pytest.raises(CallError, match="belongs to another session than the call, 'demo'; await it and pass its"):
        review.using(session=session).map(part=ListVariable(RecordingSession("other"), "parts"))


@pytest.mark.parametrize(("is_map", "most"), [(False, 59), (True, 54)])
def test_a_chosen_name_leaves_room_for_those_of_the_items(is_map: bool, most: int, session: RecordingSession) -> None:
    def make(length: int) -> SemanticVariable:
        function = split.using(session=session, names={"parts": "x" * length})
        text = ListVariable(session, "texts")
        return function.map(text) if is_map else function(text)

    assert make(most).id == "x" * most
    with pytest.raises(InvalidName, match=f"use at most {most} characters, so that there is room for -9999"):
        make(most + 1)
