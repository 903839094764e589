"""What an input may be given: checked once, where a call is made."""

from __future__ import annotations

from collections.abc import Sequence

from parrot_mq.errors import CallError
from parrot_mq.program.transforms import MAX_LIST_ITEMS
from parrot_mq.program.variable import ListVariable, SemanticVariable

__all__ = ["InputText", "check_text", "check_texts", "check_value", "variables_in"]

InputText = str | SemanticVariable | tuple[str | SemanticVariable, ...]
"""A checked input: a text, a variable, which may be a list, or several texts and variables."""

_EXPECTED = "pass a str, a SemanticVariable, or a list of these"


def check_value(value: object) -> InputText:
    """The value in the form that a call keeps.

    Raises:
        CallError: It is neither text nor variable, nor a list of these; or the list is empty; or the text is not valid.
            The message does not name the argument; the caller does.
    """
    if isinstance(value, ListVariable):
        return value
    if isinstance(value, str | SemanticVariable):
        return _check_item(value, "the value")
    if isinstance(value, bytes | bytearray | memoryview) or not isinstance(value, Sequence):
        raise CallError(f"the value is {_describe(value)}; {_EXPECTED}")
    if not value:
        raise CallError("the list is empty; leave the call out, or pass the text '' to insert nothing")
    return tuple(_check_item(item, f"item [{index}] of the list") for index, item in enumerate(value))


def check_text(value: str) -> str:
    """What a variable may be set to.

    Raises:
        CallError: The text is not valid.
    """
    return _check_str(value, "the value")


def check_texts(value: object) -> list[str]:
    """What a list variable may be set to.

    Raises:
        CallError: It is no list of texts, or has too many.
    """
    if isinstance(value, bytes | bytearray | memoryview) or not isinstance(value, Sequence):
        raise CallError(f"the value is {_describe(value)}; the value of a variable is a str, or a list of them")
    if len(value) > MAX_LIST_ITEMS:
        raise CallError(
            f"the list has {len(value):,} items, at most {MAX_LIST_ITEMS:,} are allowed; make several lists"
        )
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise CallError(f"item [{index}] of the list is {_describe(item)}; the items of a list variable are texts")
    return [_check_str(item, f"item [{index}] of the list") for index, item in enumerate(value)]


def variables_in(value: InputText) -> tuple[SemanticVariable, ...]:
    """The variables of a checked input."""
    items = value if isinstance(value, tuple) else (value,)
    return tuple(item for item in items if isinstance(item, SemanticVariable))


def _check_item(item: object, what: str) -> str | SemanticVariable:
    if isinstance(item, ListVariable):
        remedy = "pass it as the argument itself, or some of its items: `variable.item(0)`"
        raise CallError(f"{what} is {item!r} (lists cannot be nested); {remedy}")
    if isinstance(item, SemanticVariable):
        return item
    if not isinstance(item, str):
        raise CallError(f"{what} is {_describe(item)}; {_EXPECTED}")
    return _check_str(item, what)


def _check_str(item: str, what: str) -> str:
    try:
        item.encode()
    except UnicodeEncodeError as error:
        surrogate = f"the lone surrogate U+{ord(item[error.start]):04X} at character {error.start}"
        remedy = "decode it with the right encoding, or with errors='replace'"
        raise CallError(f"{what} has {surrogate}, which is not text; {remedy}") from None
    return str.__str__(item)  # a plain str also of a StrEnum member or another subclass


def _describe(value: object) -> str:
    """The type of a value, with what to do about the common mistakes. Never the value: it may be private."""
    if value is None:
        return "None (pass '' for an empty text)"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{type(value).__name__} (decode it: `value.decode()`)"
    if isinstance(value, bool | int | float):
        return f"of type {type(value).__name__} (format it yourself: `str(value)`)"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} (lists cannot be nested)"
    if hasattr(value, "__await__"):
        return f"of type {type(value).__name__} (await it first)"
    if isinstance(value, set | frozenset | dict) or hasattr(value, "__next__"):
        return f"of type {type(value).__name__} (make it a list: `list(value)`)"
    return f"of type {type(value).__name__} (format it yourself: `str(value)`)"
