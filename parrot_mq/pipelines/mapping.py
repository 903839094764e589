"""From the fields of an event to texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from parrot_mq.errors import EventMismatch
from parrot_mq.program.pointer import NothingThere, find_at, json_text, parse_pointer

__all__ = ["Field", "map_fields", "point", "text_of"]


class Field(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a variable's text stands in an event.

    Attributes:
        pointer: A JSON pointer into the event's data, such as `/ticket/text`; empty for all of it.
        default: The text if there is nothing; without it such an event does not fit.
    """

    pointer: str = ""
    default: str | None = None

    def __post_init__(self) -> None:
        parse_pointer(self.pointer)


def point(data: Any, pointer: str) -> Any:
    """What stands at a pointer.

    Raises:
        EventMismatch: There is nothing; says how far it goes, and what is there.
    """
    try:
        return find_at(data, pointer)
    except NothingThere as error:
        raise EventMismatch(where=pointer, problem=f"{error.place or 'the event'} {error.problem}") from None


def text_of(value: Any, where: str) -> str:
    """A JSON value as the text of a variable: texts as they are, all else as JSON.

    Raises:
        EventMismatch: It is null.
    """
    if value is None:
        raise EventMismatch(where=where, problem="it is null")
    return json_text(value)


def map_fields(data: Any, fields: Mapping[str, Field]) -> dict[str, str]:
    """The texts of all variables.

    Raises:
        EventMismatch: The event lacks a field that has no default.
    """
    return {name: _read(data, name, field) for name, field in fields.items()}


def _read(data: Any, name: str, field: Field) -> str:
    try:
        return text_of(point(data, field.pointer), field.pointer or name)
    except EventMismatch:
        if field.default is None:
            raise
        return field.default
