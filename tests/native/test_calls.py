"""Calls of native functions in a program: what is checked at once, and the task that is submitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest

from parrot_mq.client.submission import MAX_INLINE_INPUT, make_submission
from parrot_mq.errors import CallError
from parrot_mq.messages import NativeTask, ResultSpec, VariableRef
from parrot_mq.program import Input, JsonPointer, ListVariable, SemanticVariable, Separator, native_function, select
from tests.native.functions import fail, greet, halve, judge, shout, words
from tests.native.typed_example import use
from tests.program.recording_session import RecordingSession


@native_function
def whisper(text: str) -> str:
    """In small letters."""
    return text.lower()


@native_function
def joined(parts: Annotated[Input, Separator(" + ")]) -> str:
    """As it came."""
    return str(parts)


@pytest.fixture
def session() -> RecordingSession:
    return RecordingSession()


def _task(session: RecordingSession, timeout_s: float = 600.0) -> NativeTask:
    """The task of the last call."""
    call = session.calls[-1]
    names = {output: call.names.get(output, output) for output in call.spec.outputs}
    record = make_submission(call, names, task="t", model="tiny", timeout_s=timeout_s).record
    assert isinstance(record, NativeTask)
    return record


def _refused(make: Callable[[], object]) -> str:
    with pytest.raises(CallError) as caught:
        make()
    return caught.value.message


# -- one function ----------------------------------------------------------------------------------------------------


def test_a_call_returns_a_variable_and_submits_a_task(session: RecordingSession) -> None:
    with session.open():
        variable = greet("Ada", greeting="Hi")
    assert (type(variable), variable.id) == (SemanticVariable, "result")
    assert _task(session) == NativeTask(
        function="greet", inputs={"name": "Ada", "greeting": "Hi"}, outputs={"result": ResultSpec(variable="result")}
    )


def test_the_result_of_one_call_is_the_argument_of_the_next(session: RecordingSession) -> None:
    with session.open():
        shout(greet(SemanticVariable(session, "person")))
    assert _task(session).inputs == {"text": VariableRef("result")}


def test_a_list_is_a_list_variable(session: RecordingSession) -> None:
    with session.open():
        found = words("a b")
        assert isinstance(found, ListVariable)
        assert _task(session).outputs == {"result": ResultSpec(variable="result", transforms=[JsonPointer(items=True)])}
        joined(found)
    assert _task(session).inputs == {"parts": VariableRef("result", items=True)}
    assert _task(session).separators == {"parts": " + "}


def test_several_outputs_are_several_variables(session: RecordingSession) -> None:
    with session.open():
        first, second = halve.outputs("abcd")
        assert (first.id, second.id) == ("first", "second")
        verdict, _ = judge.using(names={"verdict": "v"}).outputs("x")
        assert verdict.id == "v"
        assert "write `first, second = halve.outputs(…)`" in _refused(lambda: halve("abcd"))


def test_a_map_goes_through_a_list(session: RecordingSession) -> None:
    with session.open():
        results = greet.map(name=words("Ada Bob"), greeting="Hi")
    assert isinstance(results, ListVariable)
    task = _task(session)
    assert (task.each, task.inputs) == (["name"], {"name": VariableRef("result"), "greeting": "Hi"})


def test_limits_are_part_of_the_task(session: RecordingSession) -> None:
    with session.open():
        fail.using(attempt_timeout_s=7, timeout_s=90)("value")
    task = _task(session, timeout_s=90)
    assert (task.timeout_s, task.attempt_timeout_s, task.max_attempts) == (90, 7, 5)
    assert session.calls[-1].timeout_s == 90
    assert _task(session, timeout_s=5).attempt_timeout_s == 5


def test_long_texts_are_sent_once_as_variables(session: RecordingSession) -> None:
    text = "x" * (MAX_INLINE_INPUT + 1)
    with session.open():
        shout(text)
    call = session.calls[-1]
    submission = make_submission(call, {"result": "r"}, task="t", model="", timeout_s=1)
    assert list(submission.texts.values()) == [text]
    assert submission.chained_outputs == []


def test_arguments_that_do_not_fit_are_told_with_the_remedy(session: RecordingSession) -> None:
    with session.open():
        assert _refused(lambda: greet()) == "`greet(name, greeting=…)`: missing argument: `name`"
        assert "did you mean `greeting`? its inputs: name, greeting" in _refused(lambda: greet("Ada", greting="Hi"))
        assert "argument `text`: the value is of type int (format it" in _refused(lambda: shout(3))  # type: ignore[arg-type]
        other = SemanticVariable(RecordingSession("other"), "v")
        assert "belongs to another session than the call, 'demo'; await it" in _refused(lambda: shout(other))
    assert "is called outside a session; call it inside" in _refused(lambda: shout("x"))
    assert not session.calls


def test_a_type_checker_sees_the_same(session: RecordingSession) -> None:
    with session.open():
        use(SemanticVariable(session, "v"))
    assert len(session.calls) == 8


# -- one of several --------------------------------------------------------------------------------------------------


def test_a_variable_says_which_function_is_called(session: RecordingSession) -> None:
    with session.open():
        result = select(SemanticVariable(session, "tool"), among=[shout, whisper])(text=SemanticVariable(session, "q"))
    assert result.id == "result"
    task = _task(session)
    assert (task.function, task.choices) == (VariableRef("tool"), ["shout", "whisper"])
    assert task.inputs == {"text": VariableRef("q")}
    assert [variable.id for variable in session.calls[-1].reads()] == ["tool", "q"]


def test_a_selection_has_the_widest_limits_of_its_functions(session: RecordingSession) -> None:
    chosen = select(
        SemanticVariable(session, "tool"),
        among=[shout.using(attempt_timeout_s=5), whisper.using(attempt_timeout_s=90, max_attempts=7)],
    )
    assert (chosen.attempt_timeout_s, chosen.max_attempts) == (90, 7)
    assert str(chosen.spec) == "shout|whisper(text)"
    assert chosen.using(timeout_s=3, session=session).timeout_s == 3


def test_defaults_that_differ_are_none(session: RecordingSession) -> None:
    @native_function
    def salute(name: str, greeting: str = "Ahoy") -> str:
        return f"{greeting} {name}"

    with session.open():
        chosen = select(SemanticVariable(session, "tool"), among=[greet, salute])
        assert "missing argument: `greeting`" in _refused(lambda: chosen("Ada"))
        same = native_function(name="same")(greet.function)
        select(SemanticVariable(session, "tool"), among=[greet, same])("Ada")
    assert _task(session).inputs == {"name": "Ada", "greeting": "Hello"}


@pytest.mark.parametrize(
    ("among", "problem"),
    [
        ([], "`select` chooses among two or more functions, got 0: `among=[…, …]`"),
        ([shout], "`select` chooses among two or more functions, got 1: `among=[…, …]`"),
        ([shout, len], "`select` chooses among native functions; <built-in function len> is none"),
        ([shout, shout], "`select`: two functions have one name (shout, shout); give one another: `name=…`"),
        ([shout, greet], "`select`: `shout(text)` and `greet(name, greeting=…)` do not take the same arguments"),
        (
            [halve, judge],
            "`select`: `halve` gives first, second, `judge` verdict, reason; they have to return the same",
        ),
        ([shout, words], "`select`: `shout` and `words` return the same names, but not the same kinds"),
    ],
)
def test_functions_that_do_not_fit_each_other_are_refused(session: RecordingSession, among: Any, problem: str) -> None:
    assert _refused(lambda: select(SemanticVariable(session, "tool"), among=among)).startswith(problem)


def test_what_says_which_function_is_one_variable_of_the_session(session: RecordingSession) -> None:
    text: Any = "shout"
    problem = _refused(lambda: select(text, among=[shout, whisper]))
    assert problem.startswith("`select` takes a variable, not str; call the function itself")
    names = ListVariable(session, "tools")
    assert _refused(lambda: select(names, among=[shout, whisper])).startswith("`select` takes a variable with one text")
    other = SemanticVariable(RecordingSession("other"), "tool")
    with session.open():
        problem = _refused(lambda: select(other, among=[shout, whisper])("x"))
    assert "belongs to another session than the call, 'demo'" in problem
