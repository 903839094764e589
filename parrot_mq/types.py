"""Names and small values that every layer uses."""

from __future__ import annotations

import re
import secrets
from typing import Annotated, NewType

import msgspec

from parrot_mq.errors import InvalidName

__all__ = [
    "NAME_RULE",
    "ModelName",
    "Sampling",
    "SessionId",
    "TaskId",
    "TenantId",
    "VariableId",
    "WorkerId",
    "check_name",
    "fresh_id",
    "is_name",
]

TenantId = NewType("TenantId", str)
SessionId = NewType("SessionId", str)
VariableId = NewType("VariableId", str)
TaskId = NewType("TaskId", str)
WorkerId = NewType("WorkerId", str)
ModelName = NewType("ModelName", str)

NAME_RULE = "use 1 to 64 of the characters A-Z a-z 0-9 _ -"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_name(name: object) -> bool:
    """Whether `name` can be one token of a subject."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def check_name(kind: str, name: str) -> str:
    """Return `name` if it can be one token of a subject.

    Args:
        kind: What is named ("session", "variable", …); used in the error.
        name: The proposed name.

    Raises:
        InvalidName: It has other characters, is empty, or is too long.
    """
    if not is_name(name):
        raise InvalidName(kind=kind, name=str(name), rule=NAME_RULE)
    return name


def fresh_id(prefix: str) -> str:
    """A name that nobody else will choose: `prefix` and 80 random bits."""
    return f"{prefix}-{secrets.token_hex(10)}"


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How one output is generated.

    Attributes:
        max_tokens: Most tokens that are generated.
        stop: Strings that end the output; they are not part of it.
        temperature: 0 takes the likeliest token at each step; larger is more varied.
        top_p: Keep the likeliest tokens whose probabilities sum to this.
        top_k: Keep this many of the likeliest tokens; 0 keeps all.
        seed: Makes sampling repeatable, 64 bits; without it the address of the output (tenant, session, variable) is
            hashed.
    """

    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 256
    stop: tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=256)], ...] = ()
    temperature: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
