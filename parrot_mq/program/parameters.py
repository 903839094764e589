"""What the parameters of a semantic function are annotated with: inputs, outputs, separators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias

import msgspec

from parrot_mq.errors import ConfigurationError
from parrot_mq.program.marks import Mark, check_mark
from parrot_mq.program.transforms import MAX_TRANSFORMS, Transform
from parrot_mq.program.variable import SemanticVariable
from parrot_mq.types import Objective, Sampling

__all__ = ["DEFAULT_SEPARATOR", "Input", "Output", "Separator"]

Input: TypeAlias = str | SemanticVariable | Sequence[str | SemanticVariable]
"""A parameter that is read: a text, a variable, or a list of both, whose texts are joined. Of a list variable the items
are joined."""

DEFAULT_SEPARATOR: Final = "\n"

_RULES: Final = {
    "max_tokens": "a whole number from 1 to 1,000,000",
    "min_tokens": "a whole number from 0 to max_tokens",
    "stop": "a text of 1 to 256 characters, or a list of such texts",
    "stop_token_ids": "a list of at most 256 token ids",
    "ignore_eos": "True or False",
    "temperature": "a number from 0 to 10",
    "top_p": "a number above 0 and at most 1",
    "top_k": "a whole number from 0 (keep all) to 2**63 - 1",
    "min_p": "a number from 0 to 1",
    "repetition_penalty": "a number above 0 and at most 10",
    "presence_penalty": "a number from -2 to 2",
    "frequency_penalty": "a number from -2 to 2",
    "logit_bias": "numbers from -100 to 100 by token id, at most 1,024 of them",
    "logprobs": "a whole number from 0 (none) to 20",
    "seed": "a whole number from -2**63 to 2**63 - 1, or None",
}
_TYPES: Final = {each.name: each.type for each in msgspec.structs.fields(Sampling)}
_TRANSFORMS: Any = Annotated[tuple[Transform, ...], msgspec.Meta(max_length=MAX_TRANSFORMS)]
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

    __slots__ = ("_objective", "_sampling", "_transforms")

    def __init__(
        self,
        *,
        max_tokens: int = 256,
        min_tokens: int = 0,
        stop: str | Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        logit_bias: Mapping[int, float] | None = None,
        logprobs: int = 0,
        seed: int | None = None,
        objective: Mark | None = None,
        transform: Transform | Sequence[Transform] = (),
    ) -> None:
        """Describe an output.

        Args:
            max_tokens: Most tokens that are generated, from 1 to 1,000,000.
            min_tokens: Before this many tokens nothing but `max_tokens` ends the output.
            stop: A text, or several, that end the output; they are not part of it.
            stop_token_ids: Tokens that end the output; their text is not part of it.
            ignore_eos: Go on when the model ends the text.
            temperature: 0 takes the likeliest token at each step; larger is more varied, up to 10.
            top_p: Keep the likeliest tokens whose probabilities sum to this, above 0 and at most 1.
            top_k: Keep this many of the likeliest tokens; 0 keeps all.
            min_p: Keep tokens at least this probable, as a share of the likeliest token's probability, from 0 to 1.
            repetition_penalty: Above 1 makes tokens that prompt or output have less likely; above 0 and at most 10.
            presence_penalty: Subtracted from the logits of tokens that the output has, from -2 to 2.
            frequency_penalty: Subtracted as many times as the output has the token, from -2 to 2.
            logit_bias: What is added to the logit of each token id that is named, from -100 to 100.
            logprobs: With each token, tell its log probability and those of this many of the likeliest tokens, up to
                20; 0 tells none. They come with the pieces of `SemanticVariable.stream`.
            seed: Makes sampling repeatable; without it every call has its own.
            objective: What is wanted of it: `"latency"` (somebody waits for it), `"throughput"` (it only has to be
                finished), or an `Objective` with targets. Without it that follows from who awaits and who reads it.
            transform: What the server makes of the text before it becomes the variable: one of `Strip`, `Regex`,
                `JsonPointer`, `Split` and `Join`, or several, one after the other. If they end in a list, the output
                is a `ListVariable`. Later outputs of the function go on after the text as it was generated.

        Raises:
            ConfigurationError: A value is out of its range; the message names the argument and the range.
        """
        values = {
            "max_tokens": max_tokens,
            "min_tokens": min_tokens,
            "stop": stop,
            "stop_token_ids": stop_token_ids,
            "ignore_eos": ignore_eos,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "presence_penalty": presence_penalty,
            "frequency_penalty": frequency_penalty,
            "logit_bias": {} if logit_bias is None else logit_bias,
            "logprobs": logprobs,
            "seed": seed,
        }
        checked = {name: _check(name, value) for name, value in values.items()}
        if min_tokens > max_tokens:
            raise _out_of_range("min_tokens", min_tokens)
        self._sampling = msgspec.convert(checked, Sampling)
        self._objective = None if objective is None else check_mark(objective)
        self._transforms = _check_transforms(transform)

    @property
    def sampling(self) -> Sampling:
        """How it is generated, as it goes over the wire."""
        return self._sampling

    @property
    def objective(self) -> Objective | None:
        """What is wanted of it, as it goes over the wire; None if nothing was said."""
        return self._objective

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """What is made of its text, as it goes over the wire."""
        return self._transforms

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, Output) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Sampling, Objective | None, tuple[Transform, ...]]:
        return self._sampling, self._objective, self._transforms

    def __repr__(self) -> str:
        sampling = msgspec.structs.asdict(self._sampling).items()
        changed = [(name, value) for name, value in sampling if value != getattr(Sampling(), name)]
        if self._objective is not None:
            changed.append(("objective", self._objective))
        if self._transforms:
            changed.append(("transform", self._transforms[0] if len(self._transforms) == 1 else [*self._transforms]))
        return f"Output({', '.join(f'{name}={value!r}' for name, value in changed)})"


def _check(name: str, value: object) -> object:
    """The value in the field's type, within the bounds of `Sampling`; integers also fit the 64 bits of the wire."""
    try:
        is_one_stop = name == "stop" and isinstance(value, str)
        checked: object = msgspec.convert((value,) if is_one_stop else value, type=_TYPES[name])
        for text in checked if name == "stop" and isinstance(checked, tuple) else ():
            text.encode()
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise _out_of_range(name, value) from None
    if isinstance(checked, int) and checked not in _INT64:
        raise _out_of_range(name, value)
    return checked


def _check_transforms(transform: object) -> tuple[Transform, ...]:
    """One transform, or several, as a tuple; their fields are checked here, as where they are decoded."""
    several = (transform,) if isinstance(transform, Transform) else transform
    if not isinstance(several, list | tuple) or not all(isinstance(each, Transform) for each in several):
        problem = f"Output(transform={transform!r}) cannot be used"
        rule = "transform is one of Strip(), Regex(…), JsonPointer(…), Split(…) and Join(…), or a list of them"
        raise ConfigurationError(f"{problem}: {rule}", argument="transform")
    try:
        checked: tuple[Transform, ...] = msgspec.json.decode(msgspec.json.encode(several), type=_TRANSFORMS)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise ConfigurationError(f"Output(transform=…) cannot be used: {error}", argument="transform") from None
    return checked


def _out_of_range(name: str, value: object) -> ConfigurationError:
    return ConfigurationError(f"Output({name}={value!r}) cannot be used: {name} is {_RULES[name]}", argument=name)
