"""Native functions as a type checker sees them; checked with the rest under mypy --strict, and run by test_calls.py."""

from __future__ import annotations

from typing import assert_type

from parrot_mq.program import FunctionCall, ListVariable, SemanticVariable, native_function, select
from tests.native.functions import greet, halve, shout, words


@native_function(attempt_timeout_s=5)
async def lines(text: str) -> list[str]:
    """One by one."""
    return text.splitlines()


def use(variable: SemanticVariable) -> None:
    """Every kind of argument, and the types that come back."""
    assert_type(shout("a text"), SemanticVariable)
    assert_type(greet(variable, greeting="Hi"), SemanticVariable)
    assert_type(words(variable), ListVariable)
    assert_type(lines(text=[variable, "a text"]), ListVariable)
    assert_type(shout.map(text=words(variable)), ListVariable)
    assert_type(halve.outputs(variable), tuple[SemanticVariable, ...])
    assert_type(shout.bind("a text"), FunctionCall)
    other = native_function(name="other")(shout.function)
    assert_type(select(variable, among=[shout, other])(variable), SemanticVariable)
    assert_type(shout.function("a text"), str)
    assert_type(words.function("a text"), list[str])


def misuse() -> None:
    """What a type checker refuses; each comment would be an error if the line were allowed."""
    shout(3)  # type: ignore[arg-type]
    shout.function(3)  # type: ignore[arg-type]
    shout.function("a text", "another")  # type: ignore[call-arg]
