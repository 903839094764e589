"""What the parameters of a semantic function are annotated with: inputs, outputs, separators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from parrot_mq.errors import ConfigurationError
from parrot_mq.program.variable import SemanticVariable
from parrot_mq.types import Sampling

__all__ = ["DEFAULT_SEPARATOR", "Input", "Output", "Separator"]

Input: TypeAlias = str | SemanticVariable | Sequence[str | SemanticVariable]
"""A parameter that is read: a text, a variable, or a list of both, whose texts are joined."""

DEFAULT_SEPARATOR: Final = "\n"

_RULES: Final = {
    "max_tokens": "a whole number from 1 to 1,000,000",
    "stop": "a text of 1 to 256 characters, or a list of such texts",
    "temperature": "a number from 0 to 10",
    "top_p": "a number above 0 and at most 1",
    "top_k": "a whole number from 0 (keep all) to 2**63 - 1",
    "seed": "a whole number from -2**63 to 2**63 - 1, or None",
}
_TYPES: Final = {each.name: each.type for each in msgspec.structs.fields(Sampling)}
_INT64: Final = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Separator:
    """What joins the items of a list input: `parts: Annotated[Input, Separator(", ")]`. A line break without it."""

    text: str


class Output:
    """A parameter that the model writes, with how it is generated as its default value.

    Example:
        ```python
        @semantic_function
        def summarise(passage: Input, summary: Output = Output(max_tokens=48, stop="\\n")) -> None:
            \"""Passage: {{passage}}
            Summary in one sentence: {{summary}}\"""
        ```
    """

    __slots__ = ("_sampling",)

    def __init__(
        self,
        *,
        max_tokens: int = 256,
        stop: str | Sequence[str] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
    ) -> None:
        """Describe an output.

        Args:
            max_tokens: Most tokens that are generated, from 1 to 1,000,000.
            stop: A text, or several, that end the output; they are not part of it.
            temperature: 0 takes the likeliest token at each step; larger is more varied, up to 10.
            top_p: Keep the likeliest tokens whose probabilities sum to this, above 0 and at most 1.
            top_k: Keep this many of the likeliest tokens; 0 keeps all.
            seed: Makes sampling repeatable; without it every call has its own.

        Raises:
            ConfigurationError: A value is out of its range; the message names the argument and the range.
        """
        values = {
            "max_tokens": max_tokens,
            "stop": stop,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "seed": seed,
        }
        self._sampling = msgspec.convert({name: _check(name, value) for name, value in values.items()}, Sampling)

    @property
    def sampling(self) -> Sampling:
        """How it is generated, as it goes over the wire."""
        return self._sampling

    def __eq__(self, other: object) -> bool:
        return self._sampling == other._sampling if isinstance(other, Output) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._sampling)

    def __repr__(self) -> str:
        changed = msgspec.structs.asdict(self._sampling).items()
        shown = ", ".join(f"{name}={value!r}" for name, value in changed if value != getattr(Sampling(), name))
        return f"Output({shown})"


def _check(name: str, value: object) -> object:
    """The value in the field's type, within the bounds of `Sampling`; integers also fit the 64 bits of the wire."""
    try:
        is_one_stop = name == "stop" and isinstance(value, str)
        checked: object = msgspec.convert((value,) if is_one_stop else value, type=_TYPES[name])
        for text in checked if isinstance(checked, tuple) else ():
            text.encode()
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise _out_of_range(name, value) from None
    if isinstance(checked, int) and checked not in _INT64:
        raise _out_of_range(name, value)
    return checked


def _out_of_range(name: str, value: object) -> ConfigurationError:
    return ConfigurationError(f"Output({name}={value!r}) cannot be used: {name} is {_RULES[name]}", argument=name)
