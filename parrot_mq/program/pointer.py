"""JSON pointers, and what stands at them as text.

Source: RFC 6901.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

__all__ = ["NothingThere", "describe_json", "find_at", "json_text", "parse_pointer"]

_BAD_ESCAPE = re.compile(r"~(?![01])")
_INDEX = re.compile(r"0|[1-9][0-9]*")


class NothingThere(LookupError):
    """A pointer leads nowhere.

    Attributes:
        place: How far it goes: a pointer, empty for the document.
        problem: What is there, without its content, which may be private.
    """

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place or 'the document'} {problem}")
        self.place = place
        self.problem = problem


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


def find_at(data: Any, pointer: str) -> Any:
    """What stands at a pointer.

    Raises:
        NothingThere: It leads nowhere; says how far it goes, and what is there.
    """
    place = ""
    for step in parse_pointer(pointer):
        if isinstance(data, dict) and step in data:
            data = data[step]
        elif isinstance(data, list) and _INDEX.fullmatch(step) and len(step) < 10 and int(step) < len(data):
            data = data[int(step)]
        else:
            raise NothingThere(place, f"{describe_json(data)}, no {step!r}")
        place += f"/{step}"
    return data


def json_text(value: Any) -> str:
    """A JSON value as a text: texts as they are, all else as JSON without spaces and with sorted names."""
    return value if isinstance(value, str) else msgspec.json.encode(value, order="deterministic").decode()


def describe_json(data: Any) -> str:
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
        case bool():
            return "is true or false"
        case _:
            return "is a number"
