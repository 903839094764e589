"""What all structured messages have in common.

The wire evolves by adding: new fields have defaults, names and tags stay. `type` on the wire is the tag. Unknown fields
are ignored, so an older reader understands a newer writer.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from parrot_mq.types import NAME_RULE

__all__ = ["NAME_PATTERN", "Count", "Fact", "Message", "Name"]

NAME_PATTERN = r"^[A-Za-z0-9_-]{1,64}$(?!\n)"
"""In Python `$` alone would also match before a line break at the end."""

Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN, description=NAME_RULE)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Fact = str | int | float | bool | list[str] | None


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all structured messages."""
