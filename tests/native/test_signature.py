"""What a native function may look like; errors come when it is defined."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import pytest

from parrot_mq.errors import ConfigurationError, InvalidName, SignatureError
from parrot_mq.program import Input, JsonPointer, SemanticVariable, Separator, native_function
from tests.native.functions import fail, greet, halve, judge, shout, words


def _definition_error(function: Callable[..., Any]) -> str:
    with pytest.raises(SignatureError) as caught:
        native_function(function)
    place, _, problem = caught.value.message.partition("): ")
    code = function.__code__
    assert place == f"native function `{function.__name__}` ({__file__}:{code.co_firstlineno}"
    return problem


def test_parameters_are_inputs_and_what_is_returned_are_outputs() -> None:
    assert list(greet.spec.separators) == ["name", "greeting"]
    assert greet.spec.defaults == {"greeting": "Hello"}
    assert shout.spec.outputs == {"result": ()}
    assert words.spec.outputs == {"result": (JsonPointer(items=True),)}
    assert list(halve.spec.outputs) == ["first", "second"]
    assert list(judge.spec.outputs) == ["verdict", "reason"]
    assert [each.spec.is_async for each in (shout, greet)] == [False, True]


def test_the_function_itself_can_still_be_called() -> None:
    assert shout.function("x") == "X"
    assert words.function(text="a b") == ["a", "b"]
    assert shout.__name__ == "shout"
    assert (shout.__doc__ or "") == "In capitals."
    assert repr(greet) == "<NativeFunction greet(name, greeting=…) -> result>"


def test_options_are_given_to_the_decorator() -> None:
    assert (fail.max_attempts, fail.retry_on) == (5, (ConnectionError, LookupError))
    one = native_function(name="other", timeout_s=30, attempt_timeout_s=3, retry_on=OSError)(shout.function)
    assert (one.name, one.timeout_s, one.attempt_timeout_s, one.retry_on) == ("other", 30.0, 3.0, (OSError,))
    assert (shout.timeout_s, shout.attempt_timeout_s, shout.max_attempts) == (None, 60.0, 3)
    assert one.using(max_attempts=1).retry_on == (OSError,)


def test_inputs_may_be_annotated_as_texts_and_variables() -> None:
    @native_function
    def function(a: str, b: Input, c: str | SemanticVariable, d: Annotated[str, Separator("|")] = "") -> Sequence[str]:
        return [a]

    assert function.spec.separators == {"a": "\n", "b": "\n", "c": "\n", "d": "|"}
    assert function.spec.is_list


def test_a_function_may_take_nothing() -> None:
    @native_function
    def now() -> str:
        return "now"

    assert str(now.spec) == "now()"


# -- definitions that are refused ------------------------------------------------------------------------------------


def test_a_parameter_without_annotation_is_named() -> None:
    def function(text) -> str:  # type: ignore[no-untyped-def]
        return str(text)

    assert _definition_error(function).startswith("parameter `text` has no annotation; annotate it as `str`")


def test_a_method_is_refused() -> None:
    class Tools:
        def search(self, text: str) -> str:
            return text

    assert "parameter `self` has no annotation (methods cannot be native functions)" in _definition_error(Tools.search)


def test_a_parameter_that_is_no_text_is_named() -> None:
    def function(number: int) -> str:
        return str(number)

    problem = "parameter `number` is annotated `int`, which is neither text nor variable; annotate it as `str`"
    assert _definition_error(function).startswith(problem)


def test_any_number_of_parameters_is_refused() -> None:
    def function(*texts: str) -> str:
        return "".join(texts)

    problem = _definition_error(function)
    assert problem.startswith("it has `*texts")
    assert problem.endswith("; name every input as a parameter of its own")


def test_a_default_is_a_text() -> None:
    def number(text: str = 3) -> str:  # type: ignore[assignment]
        return text

    def several(text: Input = ("a", "b")) -> str:
        return str(text)

    assert _definition_error(number).startswith("the default of `text` cannot be used: the value is of type int")
    assert _definition_error(several) == "the default of `text` is no text; write `text: str = '…'`"


def test_names_that_cannot_be_on_the_wire_are_refused() -> None:
    class Größe(NamedTuple):
        höhe: str

    def parameter(größe: str) -> str:
        return größe

    def field(a: str) -> Größe:
        return Größe(a)

    assert _definition_error(parameter).startswith("parameter `größe` cannot be named on the wire; use 1 to 64")
    assert "cannot be resolved" in _definition_error(field)  # a local class, under postponed annotations
    field.__annotations__["return"] = Größe
    assert _definition_error(field).startswith("the field `höhe` of what it returns cannot be named on the wire")


@pytest.mark.parametrize(
    ("returned", "shown"),
    [(None, "None"), (int, "int"), (dict[str, str], "dict"), (list[int], "list"), (str | None, "")],
)
def test_what_is_returned_is_text(returned: Any, shown: str) -> None:
    def function(text: str) -> Any:
        return text

    function.__annotations__["return"] = returned
    problem = _definition_error(function)
    assert problem.startswith(f"it returns `{shown}")
    assert "return `str`, `list[str]`, or a NamedTuple or dataclass whose fields are `str`" in problem


def test_what_is_returned_is_said() -> None:
    def function(text: str):  # type: ignore[no-untyped-def]
        return text

    assert _definition_error(function) == "it does not say what it returns; write `-> str`"


def test_fields_are_texts() -> None:
    class Mixed(NamedTuple):
        text: str
        number: int

    def function(text: str) -> Any:
        return Mixed(text, 1)

    function.__annotations__["return"] = Mixed
    assert _definition_error(function).startswith("the field `number` of what it returns is no `str`; return `str`")


def test_a_generator_is_refused() -> None:
    def function(text: str) -> Iterator[str]:
        yield text

    async def asynchronous(text: str) -> AsyncIterator[str]:
        yield text

    for each in (function, asynchronous):
        assert _definition_error(each).startswith("it is a generator, and a call has one answer")


@pytest.mark.parametrize("thing", [len, functools.partial(shout.function, "x"), lambda text: text, shout, 3])
def test_what_is_no_function_is_refused(thing: Any) -> None:
    with pytest.raises(SignatureError, match="it is not a plain function; decorate a function written with `def`"):
        native_function(thing)


def test_annotations_that_cannot_be_resolved_are_refused() -> None:
    def function(text: "Nowhere") -> str:  # type: ignore[name-defined]  # noqa: F821, UP037
        return str(text)

    assert _definition_error(function).startswith("its annotations cannot be resolved (name 'Nowhere' is not defined)")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"timeout_s": 0}, "timeout_s=0 cannot be used: it is a number of seconds, above 0 and at most a week"),
        ({"attempt_timeout_s": -1}, "attempt_timeout_s=-1 cannot be used"),
        ({"attempt_timeout_s": None}, "attempt_timeout_s=None cannot be used: every attempt has a limit, in seconds"),
        ({"max_attempts": 0}, "max_attempts=0 cannot be used: it is a whole number from 1 to 100"),
        ({"max_attempts": True}, "max_attempts=True cannot be used"),
        ({"retry_on": [3]}, "retry_on has 3, which is no kind of exception; name classes, such as ConnectionError"),
        ({"retry_on": KeyboardInterrupt}, "retry_on has <class 'KeyboardInterrupt'>, which is no kind of exception"),
    ],
)
def test_options_out_of_their_range_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        native_function(**options)(shout.function)
    assert caught.value.message.startswith(problem)


def test_a_name_that_cannot_be_on_the_wire_is_refused() -> None:
    with pytest.raises(InvalidName):
        native_function(name="no spaces")(shout.function)
