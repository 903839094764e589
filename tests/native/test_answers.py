"""What is made of what a function returns; pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_mq.errors import FunctionFailed
from parrot_mq.native.answers import describe_failure, write_answer
from parrot_mq.program import NativeFunction, native_function
from parrot_mq.program.transforms import apply_transforms
from tests.native.functions import Halves, Verdict, halve, judge, shout, words

texts = st.text(st.characters(codec="utf-8"))


def _problem(function: NativeFunction[..., Any], value: object, outputs: tuple[str, ...] = ("result",)) -> str:
    with pytest.raises(FunctionFailed) as caught:
        write_answer(function, outputs, value)
    assert caught.value.function == function.name
    return caught.value.problem


@given(texts)
def test_a_text_is_the_answer(text: str) -> None:
    assert write_answer(shout, ["result"], text) == text


@given(st.lists(texts))
def test_a_list_comes_back_as_it_was(items: list[str]) -> None:
    """Through the transform that the task says."""
    answer = write_answer(words, ["result"], items)
    assert apply_transforms(words.spec.outputs["result"], answer) == items
    assert write_answer(words, ["result"], tuple(items)) == answer


@given(texts, texts)
def test_several_outputs_are_an_object_of_texts(first: str, second: str) -> None:
    for value, function in ((Halves(first, second), halve), ((first, second), halve)):
        assert json.loads(write_answer(function, ["first", "second"], value)) == {"first": first, "second": second}
    answer = write_answer(judge, ["reason", "verdict"], Verdict(first, second))
    assert json.loads(answer) == {"verdict": first, "reason": second}


def test_one_of_several_outputs_is_its_text() -> None:
    assert write_answer(halve, ["second"], Halves("a", "b")) == "b"


def test_a_caller_may_call_the_one_output_as_it_likes() -> None:
    assert write_answer(shout, ["answer"], "x") == "x"


class One(NamedTuple):
    """A record with one field."""

    only: str


@dataclass
class Single:
    """Another one."""

    only: str


def test_a_record_with_one_field_is_that_text() -> None:
    @native_function
    def named() -> One:
        return One("x")

    @native_function
    def data() -> Single:
        return Single("x")

    assert write_answer(named, ["only"], One("x")) == "x"
    assert write_answer(data, ["only"], Single("x")) == "x"


async def _coroutine() -> str:
    return "x"


@pytest.mark.parametrize(
    ("function", "value", "problem"),
    [
        (shout, None, "what it returned is None; return '' for an empty text"),
        (shout, 3, "what it returned is of type int; return `str(value)`"),
        (shout, b"x", "what it returned is of type bytes; decode it: `value.decode()`"),
        (shout, "a\ud800", "what it returned has the lone surrogate U+D800 at character 1; decode texts with"),
        (words, "x", "what it returned is of type str; return a list of texts, as it declares"),
        (words, ["x", None], "item [1] of what it returned is None"),
        (words, ["x"] * 10_001, "it returned 10,001 items; a list has at most 10,000"),
        (halve, ("a",), "it returned 1 values; its outputs are `first`, `second`"),
        (halve, ("a", 2), "`second` of what it returned is of type int"),
        (
            judge,
            {"a": "b"},
            "what it returned is of type dict; return the record that it declares: `verdict`, `reason`",
        ),
    ],
)
def test_what_is_no_answer_is_told_with_the_remedy(function: Any, value: object, problem: str) -> None:
    assert _problem(function, value).startswith(problem)


def test_a_coroutine_that_nobody_awaited_is_no_answer() -> None:
    assert "write `async def`, and `await` it" in _problem(shout, _coroutine())


def test_outputs_that_a_function_does_not_have_are_named() -> None:
    problem = "it has no output `third`; it returns `first`, `second`: the caller and this host may have different"
    assert _problem(halve, Halves("a", "b"), ("first", "third")).startswith(problem)
    assert _problem(shout, "x", ("a", "b")).startswith("it has no output `a`, `b`; it returns `result`")


def test_an_exception_that_cannot_say_what_it_is_has_its_class() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe_failure(shout, Mute()).message == "native function 'shout' failed: Mute"


@pytest.mark.parametrize("make", [lambda: ValueError("x" * 100_000), lambda: ValueError("a\ud800b")])
def test_what_an_exception_says_fits_the_wire(make: Callable[[], Exception]) -> None:
    info = describe_failure(shout, make())
    assert len(info.message) <= 4096
    assert info.message.encode()
