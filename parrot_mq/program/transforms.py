"""Transforms: what the coordinator makes of an output's text before it becomes a variable.

A transform takes a text, or the list that one before it made, and gives a text or a list. What takes a text is used on
each item of a list; lists that it makes of items become one list. A list becomes a JSON array of texts when it is
stored.

Source: Parrot, OSDI'24, section 4.2 (string transformation between tasks).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Final

import msgspec

from parrot_mq.errors import ConfigurationError, TransformError
from parrot_mq.program.diagnostics import excerpt
from parrot_mq.program.patterns import REGEX_TIMEOUT_S, TimeBudget, check_pattern, find_every
from parrot_mq.program.pointer import NothingThere, describe_json, find_at, json_text, parse_pointer

__all__ = [
    "MAX_LIST_ITEMS",
    "MAX_TEXT",
    "MAX_TRANSFORMS",
    "Join",
    "JsonPointer",
    "Regex",
    "Split",
    "Strip",
    "Transform",
    "apply_transforms",
    "decode_list",
    "encode_list",
    "is_slow",
    "makes_list",
]

MAX_TRANSFORMS: Final = 16
MAX_LIST_ITEMS: Final = 10_000
"""Most items of a list."""
MAX_TEXT: Final = 4 * 1024 * 1024
"""Characters; longer texts are not transformed, and a list has no more of them in all its items."""

_SLOW_TEXT: Final = 64 * 1024

# -- what can be declared --------------------------------------------------------------------------------------------


class _Transform(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="op"):
    """Base of all transforms."""


class Strip(_Transform, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag="strip"):
    """Remove characters from both ends.

    Attributes:
        characters: Which; white space if it is empty.
    """

    characters: Annotated[str, msgspec.Meta(max_length=256)] = ""


class Regex(_Transform, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag="regex"):
    """Find a regular expression, and take what a group of it matched.

    All searches of one output together may compute for a second. It has neither the flag `x` nor recursions.

    Attributes:
        pattern: The expression, found anywhere in the text.
        group: Number or name of the group; 0 is all that matched. Matches that it is not part of do not count.
        every: Take all matches, as a list, instead of the first. There may be none.

    Raises:
        ConfigurationError: The pattern cannot be used, or has no such group.
    """

    pattern: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    group: int | str = 0
    every: bool = False

    def __post_init__(self) -> None:
        try:
            check_pattern(self.pattern, self.group)
        except ValueError as error:
            raise ConfigurationError(str(error), argument="pattern") from None


class JsonPointer(_Transform, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag="json"):
    """Read the text as JSON, and take what stands at a pointer: a text as it is, all else as JSON.

    Attributes:
        pointer: A JSON pointer (RFC 6901); empty for the whole document.
        items: What stands there is an array, and its items are taken, as a list.

    Raises:
        ConfigurationError: It is no JSON pointer.
    """

    pointer: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    items: bool = False

    def __post_init__(self) -> None:
        try:
            parse_pointer(self.pointer)
        except ValueError as error:
            raise ConfigurationError(str(error), argument="pointer") from None


class Split(_Transform, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag="split"):
    """Cut the text into a list.

    Attributes:
        separator: What stands between items.
        max_items: More of them are an error.
        keep_empty: Keep items that have nothing but white space.
    """

    separator: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] = "\n"
    max_items: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIST_ITEMS)] = 1000
    keep_empty: bool = False


class Join(_Transform, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag="join"):
    """Join the items of a list; of a text, which must be a JSON array of texts, those of the array.

    Attributes:
        separator: What is put between them.
    """

    separator: Annotated[str, msgspec.Meta(max_length=256)] = "\n"


Transform = Strip | Regex | JsonPointer | Split | Join
"""What can be declared on an output."""


def makes_list(transforms: Iterable[Transform]) -> bool:
    """Whether they make a list of a text."""
    is_list = False
    for transform in transforms:
        is_list = (is_list or _makes_items(transform)) and not isinstance(transform, Join)
    return is_list


def is_slow(transforms: Iterable[Transform], text: str) -> bool:
    """Whether they may take longer on a text than an event loop should wait: use a thread."""
    return len(text) > _SLOW_TEXT or any(isinstance(transform, Regex) for transform in transforms)


# -- lists -----------------------------------------------------------------------------------------------------------


def encode_list(items: Iterable[str]) -> str:
    """A list as the text of its variable: a JSON array of texts."""
    return msgspec.json.encode(list(items)).decode()


def decode_list(text: str, *, variable: str) -> list[str]:
    """The items of a list variable.

    Raises:
        TransformError: The text is no JSON array of texts, or of too many; names the variable, the place and what is
            there.
    """
    try:
        return _read_list(text)
    except ValueError as error:
        raise TransformError(
            f"variable {variable!r} is no list: {error}; found {excerpt(text)}; a list is a JSON array of texts, as an "
            f"output makes it whose transforms end in a list, such as `Output(transform=Split())`",
            variable=variable,
        ) from None


def _read_list(text: str) -> list[str]:
    """Raises ValueError with the place and what is there."""
    try:
        items = msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    if len(items) > MAX_LIST_ITEMS:
        raise ValueError(f"it has {len(items):,} items, at most {MAX_LIST_ITEMS:,} are allowed")
    return items


# -- what is made of a text ------------------------------------------------------------------------------------------


class _Misfit(Exception):
    """A transform does not fit a text.

    Attributes:
        problem: What does not fit.
        remedy: What to do about it.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


def apply_transforms(transforms: Sequence[Transform], text: str) -> str | list[str]:
    """What transforms make of a text, one after the other: a list where `makes_list` says so.

    Raises:
        TransformError: One of them does not fit what it is given; says which one and why, and shows at most 200
            characters of what it was given.
    """
    value: str | list[str] = text
    budget = TimeBudget()
    for index, transform in enumerate(transforms):
        value = _Step(transform, index, budget).apply(value)
    return value


class _Step:
    """One transform of an output, in its place."""

    def __init__(self, transform: Transform, index: int, budget: TimeBudget) -> None:
        self._transform = transform
        self._index = index
        self._budget = budget

    def apply(self, value: str | list[str]) -> str | list[str]:
        if isinstance(self._transform, Join):
            return self._transform.separator.join(self._make(value) if isinstance(value, str) else value)
        if isinstance(value, list):
            return self._apply_to_items(value)
        made = self._make(value)
        return made if _makes_items(self._transform) else made[0]

    def _apply_to_items(self, items: list[str]) -> list[str]:
        made = (each for number, item in enumerate(items) for each in self._make(item, f", item {number}"))
        try:
            return _collect(made, MAX_LIST_ITEMS, "make fewer items before")
        except _Misfit as misfit:
            raise self._error("", encode_list(items), misfit) from None

    def _make(self, text: str, where: str = "") -> list[str]:
        """The items that the transform makes of one text; one, if it makes no list."""
        try:
            return _make(self._transform, text, self._budget)
        except _Misfit as misfit:
            raise self._error(where, text, misfit) from None

    def _error(self, where: str, text: str, misfit: _Misfit) -> TransformError:
        op = self._transform.__struct_config__.tag
        place = f"transforms[{self._index}] ({op}){where}"
        sentence = f"{place}: {misfit.problem}; {misfit.remedy}; it was given {excerpt(text)}"
        return TransformError(sentence, index=self._index, op=str(op))


def _makes_items(transform: Transform) -> bool:
    match transform:
        case Split():
            return True
        case Regex():
            return transform.every
        case JsonPointer():
            return transform.items
    return False


def _make(transform: Transform, text: str, budget: TimeBudget) -> list[str]:
    if len(text) > MAX_TEXT:
        raise _Misfit(
            f"the text has {len(text):,} characters, at most {MAX_TEXT:,} are allowed", "ask for a shorter one"
        )
    match transform:
        case Strip():
            return [text.strip(transform.characters or None)]
        case Regex():
            return _find(transform, text, budget)
        case JsonPointer():
            return _point(transform, text)
        case Split():
            return _split(transform, text)
        case Join():
            return _read_array(text)


def _find(transform: Regex, text: str, budget: TimeBudget) -> list[str]:
    matches = find_every(transform.pattern, transform.group, text, budget)
    try:
        wanted = matches if transform.every else itertools.islice(matches, 1)
        found = _collect(wanted, MAX_LIST_ITEMS, "make the pattern match more at once")
    except TimeoutError:
        remedy = "nest no repetitions such as `(a+)+`, or make the inner one possessive, such as `(?:a++)+`"
        raise _Misfit(f"{_quote(transform)} took more than {REGEX_TIMEOUT_S:g} s", remedy) from None
    except MemoryError:
        raise _Misfit(f"{_quote(transform)} took too much memory", "write a simpler one") from None
    if not found and not transform.every:
        remedy = "say in the prompt which form is expected, or let the pattern match more"
        raise _Misfit(f"{_quote(transform)} matches nothing", remedy)
    return found


def _quote(transform: Regex) -> str:
    group = "" if transform.group == 0 else f"group {transform.group!r} of "
    return f"{group}the pattern {excerpt(transform.pattern)}"


def _point(transform: JsonPointer, text: str) -> list[str]:
    place = transform.pointer or "the document"
    try:
        found = find_at(_read_json(text), transform.pointer)
    except NothingThere as error:
        remedy = "name in the prompt what the JSON must have, or correct the pointer"
        raise _Misfit(f"the pointer {transform.pointer!r} leads nowhere: {error}", remedy) from None
    if not transform.items:
        return [_text_of(found, place)]
    if not isinstance(found, list):
        raise _Misfit(f"{place} {describe_json(found)}, no array", "leave `items` out for what is no list")
    items = (_text_of(item, f"item {number} of {place}") for number, item in enumerate(found))
    return _collect(items, MAX_LIST_ITEMS, "ask for fewer")


def _text_of(value: Any, place: str) -> str:
    if value is None:
        raise _Misfit(f"{place} is null", "say in the prompt what to write when there is nothing")
    try:
        made = json_text(value)
        made.encode()
    except (UnicodeEncodeError, RecursionError):
        raise _Misfit(
            f"{place} has half a character of UTF-16, or is nested too deeply", "ask for plain JSON"
        ) from None
    return made


def _read_json(text: str) -> Any:
    """Strict JSON: no NaN, no number beyond those of a computer, no name twice in an object."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        problem = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        remedy = "ask for nothing but JSON, or take it out of the text by a Regex before"
        raise _Misfit(f"the text is no JSON that can be read ({problem})", remedy) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"an object has {excerpt(name)} twice")
        found[name] = value
    return found


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {excerpt(digits)} is too large")
    return number


def _split(transform: Split, text: str) -> list[str]:
    kept = (piece for piece in _pieces(text, transform.separator) if transform.keep_empty or piece.strip())
    return _collect(kept, transform.max_items, f"raise `max_items`, to {MAX_LIST_ITEMS:,} at most, or ask for fewer")


def _pieces(text: str, separator: str) -> Iterator[str]:
    """As `str.split`, without making more of them than are wanted."""
    begin = 0
    while (end := text.find(separator, begin)) >= 0:
        yield text[begin:end]
        begin = end + len(separator)
    yield text[begin:]


def _read_array(text: str) -> list[str]:
    try:
        return _read_list(text)
    except ValueError as error:
        remedy = "put a transform that makes a list before Join, or ask for a JSON array of texts"
        raise _Misfit(f"the text is no JSON array of texts ({error})", remedy) from None


def _collect(made: Iterable[str], most: int, remedy: str) -> list[str]:
    """The items of a list, within the bounds of a list and a text."""
    items: list[str] = []
    num_characters = 0
    for item in made:
        items.append(item)
        num_characters += len(item)
        if len(items) > most:
            raise _Misfit(f"the list has more than {most:,} items", remedy)
        if num_characters > MAX_TEXT:
            raise _Misfit(f"the items have more than {MAX_TEXT:,} characters together", "take less of the text")
    return items
