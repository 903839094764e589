"""From the fields of an event to texts: JSON pointers.

Source: RFC 6901.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from parrot_mq.errors import EventMismatch

__all__ = ["Field", "map_fields", "parse_pointer", "point", "text_of"]

_BAD_ESCAPE = re.compile(r"~(?![01])")
_INDEX = re.compile(r"0|[1-9][0-9]*")


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


def parse_pointer(pointer: str) -> list[str]:
    """The steps of a JSON pointer.

    Raises:
        ValueError: It is none; says what is wrong.
    """
    if pointer and not pointer.startswith("/"):
        raise ValueError(f"a JSON pointer begins with `/`: write '/{pointer}' instead of {pointer!r}")
    if _BAD_ESCAPE.search(pointer):
        raise ValueError(f"in the JSON pointer {pointer!r} `~` is written `~0` (and `/` in a name `~1`)")
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def point(data: Any, pointer: str) -> Any:
    """What stands at a pointer.

    Raises:
        EventMismatch: There is nothing; says how far it goes, and what is there.
    """
    place = ""
    for step in parse_pointer(pointer):
        if isinstance(data, dict) and step in data:
            data = data[step]
        elif isinstance(data, list) and _INDEX.fullmatch(step) and len(step) < 10 and int(step) < len(data):
            data = data[int(step)]
        else:
            raise EventMismatch(where=pointer, problem=f"{place or 'the event'} {_describe(data)}, no {step!r}")
        place += f"/{step}"
    return data


def text_of(value: Any, where: str) -> str:
    """A JSON value as the text of a variable: texts as they are, all else as JSON.

    Raises:
        EventMismatch: It is null.
    """
    if value is None:
        raise EventMismatch(where=where, problem="it is null")
    return value if isinstance(value, str) else msgspec.json.encode(value, order="deterministic").decode()


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


def _describe(data: Any) -> str:
    """What a value is, without its content, which may be private."""
    match data:
        case dict():
            return f"is an object with {', '.join(sorted(data)[:8]) or 'nothing in it'}"
        case list():
            return f"is an array of {len(data)}"
        case str():
            return "is a text"
        case None:
            return "is null"
        case _:
            return f"is a {type(data).__name__}"
