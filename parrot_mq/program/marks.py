"""What a program may say of a variable: that somebody waits for it, or that it only has to be finished."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from parrot_mq.errors import ConfigurationError
from parrot_mq.types import Objective

__all__ = ["Mark", "check_mark"]

Mark: TypeAlias = Objective | Literal["latency", "throughput"]
"""`"latency"` for what somebody waits for, `"throughput"` for what only has to be finished, or an `Objective` with
targets."""

_RULES: Final = {
    "kind": "'latency' (somebody waits for it) or 'throughput' (it only has to be finished)",
    "ttft_ms": "a number of milliseconds to the first token, above 0 and at most a day, or None",
    "tpot_ms": "a number of milliseconds for each further token, above 0 and at most a day, or None",
    "deadline_s": "a number of seconds after which the text is of no use, above 0 and at most a week, or None",
}


def check_mark(mark: object) -> Objective:
    """The mark in the form that travels.

    Raises:
        ConfigurationError: It is neither of the two words nor an `Objective`, or a field of it is out of its range; the
            message names the field and what it may be.
    """
    if isinstance(mark, str):
        return _check_field(mark, "kind", Objective(kind=mark))  # type: ignore[arg-type]
    if not isinstance(mark, Objective):
        raise ConfigurationError(
            f"{mark!r} cannot be an objective: it is {_RULES['kind']}, or `Objective(...)` with targets",
            argument="objective",
        )
    for name in _RULES:
        _check_field(getattr(mark, name), name, mark)
    return mark


def _check_field(value: object, name: str, objective: Objective) -> Objective:
    """Check one field; structs check themselves only when they are decoded."""
    try:
        msgspec.convert({name: value}, Objective)
    except msgspec.ValidationError:
        raise ConfigurationError(
            f"objective {name}={value!r} cannot be used: {name} is {_RULES[name]}", argument="objective"
        ) from None
    return objective
