"""Transforms: what the coordinator makes of an output's text before it becomes a variable.

A transform takes a text, or the list that one before it made, and gives a text or a list. What takes a text is used on
each item of a list. A list becomes a JSON array of texts when it is stored.

Source: Parrot, OSDI'24, section 4.2 (string transformation between tasks).
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

__all__ = ["MAX_TRANSFORMS", "Join", "JsonPointer", "Regex", "Split", "Strip", "Transform"]

MAX_TRANSFORMS: Final = 16
MAX_LIST_ITEMS: Final = 10_000
"""Most items of a list."""


class _Transform(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="op"):
    """Base of all transforms."""


class Strip(_Transform, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag="strip"):
    """Remove characters from both ends.

    Attributes:
        characters: Which; white space if it is empty.
    """

    characters: str = ""


class Regex(_Transform, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag="regex"):
    """Find a regular expression, and take what a group of it matched.

    Attributes:
        pattern: The expression, found anywhere in the text.
        group: Number or name of the group; 0 is all that matched.
        every: Take all matches, as a list, instead of the first.
    """

    pattern: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    group: int | str = 0
    every: bool = False


class JsonPointer(_Transform, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag="json"):
    """Read the text as JSON, and take what stands at a pointer: texts as they are, an array as a list, else its JSON.

    Attributes:
        pointer: A JSON pointer (RFC 6901); empty for the whole document.
    """

    pointer: str = ""


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
    """Join the items of a list; of a text, which must be a JSON array, those of the array.

    Attributes:
        separator: What is put between them.
    """

    separator: Annotated[str, msgspec.Meta(max_length=256)] = "\n"


Transform = Strip | Regex | JsonPointer | Split | Join
"""What can be declared on an output."""
