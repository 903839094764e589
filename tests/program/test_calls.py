"""What happens when a semantic function is called."""

from __future__ import annotations

import asyncio
import enum
from typing import Any

import pytest

from parrot_mq.errors import CallError
from parrot_mq.program import Input, Output, SemanticVariable, current_session, semantic_function
from tests.program import typed_example
from tests.program.recording_session import RecordingSession
from tests.program.typed_example import merge, summarise, tell


def _call_error(function: Any, *args: object, **kwargs: object) -> str:
    with pytest.raises(CallError) as caught:
        function.bind(*args, **kwargs)
    return caught.value.message


def test_a_call_gives_its_variable_at_once() -> None:
    with RecordingSession().open() as session:
        summary = summarise(passage="a text")
    assert summary == SemanticVariable(session, "summary")
    (call,) = session.calls
    assert call.inputs == {"passage": "a text"}


def test_several_outputs_come_in_the_order_of_the_template() -> None:
    with RecordingSession().open():
        joke, explanation = tell.outputs(topic="parrots")
    assert (joke.id, explanation.id) == ("joke", "explanation")


def test_a_call_has_all_that_goes_over_the_wire() -> None:
    call = tell.using(names={"joke": "best"}).bind("parrots")
    assert call.template == "A {{style}} joke about {{topic}}: {{joke}}\nWhy it is funny: {{explanation}}"
    assert call.inputs == {"topic": "parrots", "style": "dry"}
    assert list(call.spec.outputs) == ["joke", "explanation"]
    assert call.names == {"joke": "best"}
    assert (call.name, call.model, call.timeout_s) == ("jokes", "tiny", 60.0)
    assert repr(call) == "<Call tell(topic, style=…)>"


def test_separators_are_named_for_lists_only() -> None:
    assert merge.bind(["a", "b"]).separators == {"parts": "\n---\n"}
    assert merge.bind("a").separators == {}
    assert summarise.bind(["a", "b"]).separators == {}


def test_inputs_are_texts_variables_or_lists_of_both() -> None:
    variable = SemanticVariable(RecordingSession(), "topic")
    assert merge.bind(variable).inputs == {"parts": variable}
    assert merge.bind(["a", variable]).inputs == {"parts": ("a", variable)}
    assert merge.bind(("a", "")).inputs == {"parts": ("a", "")}
    assert merge.bind("").inputs == {"parts": ""}


def test_a_text_of_another_class_becomes_plain() -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    value = summarise.bind(passage=Colour.RED).inputs["passage"]
    assert value == "red"
    assert type(value) is str


def test_text_that_looks_like_a_placeholder_stays_text() -> None:
    assert summarise.bind("{{topic}} }}").inputs == {"passage": "{{topic}} }}"}


async def test_the_typed_example_runs() -> None:
    with RecordingSession().open() as session:
        session.texts |= {"merged": "all", "joke": "ha"}
        assert await typed_example.use() == "all"


# -- sessions --------------------------------------------------------------------------------------------------------


def test_outside_a_session_the_remedy_is_told() -> None:
    with pytest.raises(CallError) as caught:
        summarise(passage="a text")
    assert caught.value.message == (
        "`summarise(passage)` is called outside a session; call it inside `async with client.session():`, "
        "or through `summarise.using(session=session)`"
    )


def test_using_a_session_goes_before_the_current_one() -> None:
    chosen = RecordingSession("chosen")
    with RecordingSession("current").open() as current:
        summarise.using(session=chosen)(passage="a text")
    assert (len(chosen.calls), len(current.calls)) == (1, 0)


async def test_tasks_inherit_the_session_that_is_open_where_they_start() -> None:
    async def call() -> SemanticVariable:
        return summarise(passage="a text")

    with RecordingSession("outer").open():
        async with asyncio.TaskGroup() as group:
            first = group.create_task(call())
            with RecordingSession("inner").open():
                second = group.create_task(call())
    assert (first.result().session.name, second.result().session.name) == ("outer", "inner")
    assert current_session.get() is None


@pytest.mark.parametrize("other", [RecordingSession("other"), RecordingSession("demo", tenant="other")])
def test_a_variable_of_another_session_is_refused(other: RecordingSession) -> None:
    stranger = SemanticVariable(other, "topic")
    with RecordingSession().open() as session, pytest.raises(CallError) as caught:
        merge(["a text", stranger])
    assert "belongs to another session than the call, 'demo'; await it and pass its text" in caught.value.message
    assert "  2 | {{parts}}\n    | ^^^^^^^^^" in caught.value.message
    assert session.calls == []


def test_a_variable_of_the_same_session_opened_elsewhere_is_fine() -> None:
    with RecordingSession().open() as session:
        summarise(SemanticVariable(RecordingSession(), "topic"))
    assert len(session.calls) == 1


# -- calls that are refused ------------------------------------------------------------------------------------------


def test_a_function_with_several_outputs_is_called_by_outputs() -> None:
    with RecordingSession().open() as session, pytest.raises(CallError) as caught:
        tell(topic="parrots")
    assert caught.value.message == ("`tell(topic, style=…)` has 2 outputs; write `joke, explanation = tell.outputs(…)`")
    assert session.calls == []


def test_a_missing_argument_is_shown_where_the_template_uses_it() -> None:
    assert _call_error(summarise) == (
        "`summarise(passage)`: missing argument: `passage`\n  3 | Passage: {{passage}}\n    |          ^^^^^^^^^^^"
    )


def test_an_unknown_argument_is_named_with_those_that_exist() -> None:
    message = _call_error(summarise, pasage="a text")
    assert message == (
        "`summarise(passage)`: got an unexpected keyword argument 'pasage'; did you mean `passage`? its inputs: passage"
    )


def test_too_many_arguments_are_refused() -> None:
    assert "too many positional arguments" in _call_error(summarise, "a", Output(), "c")
    assert "multiple values for argument 'passage'" in _call_error(summarise, "a", passage="b")


@pytest.mark.parametrize("value", ["mine", Output()])
def test_an_output_takes_no_argument(value: object) -> None:
    message = _call_error(summarise, "a text", summary=value)
    assert message.startswith(
        "`summarise(passage)`: `summary` is an output: the model writes it, so it takes no argument"
    )
    assert "  4 | Summary: {{summary}}" in message
    assert _call_error(summarise, "a text", value) == message


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "the value is None (pass '' for an empty text); pass a str, a SemanticVariable, or a list of these"),
        (3, "the value is of type int (format it yourself: `str(value)`); pass a str"),
        (2.5, "the value is of type float (format it yourself: `str(value)`); pass a str"),
        (True, "the value is of type bool (format it yourself: `str(value)`); pass a str"),
        (b"text", "the value is bytes (decode it: `value.decode()`); pass a str"),
        (bytearray(b"text"), "the value is bytearray (decode it: `value.decode()`); pass a str"),
        ({"a": 1}, "the value is of type dict (make it a list: `list(value)`); pass a str"),
        ({"a"}, "the value is of type set (make it a list: `list(value)`); pass a str"),
        (iter("ab"), "the value is of type str_ascii_iterator (make it a list: `list(value)`); pass a str"),
        (Output(), "the value is of type Output (format it yourself: `str(value)`); pass a str"),
        ([], "the list is empty; leave the call out, or pass the text '' to insert nothing"),
        (["a", None], "item [1] of the list is None (pass '' for an empty text); pass a str"),
        (["a", ["b"]], "item [1] of the list is a list (lists cannot be nested); pass a str"),
        ([b"a"], "item [0] of the list is bytes (decode it: `value.decode()`); pass a str"),
        ("a\udc80", "the value has the lone surrogate U+DC80 at character 1, which is not text; decode it with"),
        (["a", "\ud800"], "item [1] of the list has the lone surrogate U+D800 at character 0, which is not text"),
    ],
)
def test_a_value_that_is_no_text_is_refused_with_the_remedy(value: object, problem: str) -> None:
    message = _call_error(summarise, value)
    assert message.startswith(f"`summarise(passage)`: argument `passage`: {problem}")
    assert message.endswith("\n  3 | Passage: {{passage}}\n    |          ^^^^^^^^^^^")


async def test_a_coroutine_is_told_to_be_awaited() -> None:
    async def text() -> str:
        return "text"

    coroutine = text()
    assert "the value is of type coroutine (await it first)" in _call_error(summarise, coroutine)
    assert await coroutine == "text"


def test_an_error_does_not_show_the_value() -> None:
    """Prompts may be private; errors are logged and travel."""
    assert "secret" not in _call_error(summarise, {"secret": "secret"})


def test_the_error_says_which_argument_of_which_function() -> None:
    with pytest.raises(CallError) as caught:
        tell.outputs(topic=None)  # type: ignore[arg-type]
    assert caught.value.facts == {"function": "tell", "argument": "topic"}
    assert isinstance(caught.value, TypeError)


def test_a_function_without_inputs_can_be_called() -> None:
    @semantic_function
    def function(out: Output = Output()) -> None:
        """Say something: {{out}}"""

    assert function.bind().inputs == {}
    assert "its inputs: none" in _call_error(function, topic="x")


def test_an_input_may_come_after_the_outputs_by_position() -> None:
    """Positions count outputs too, as the signature shows them."""

    @semantic_function
    def function(a: Input, out: Output = Output(), b: Input = "b") -> None:
        """{{a}} {{b}} {{out}}"""

    assert function.bind("x", b="y").inputs == {"a": "x", "b": "y"}
    assert "`out` is an output" in _call_error(function, "x", "y")
