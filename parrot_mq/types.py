"""Names and small values that every layer uses."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Final, Literal, NewType

import msgspec

from parrot_mq.errors import InvalidName

__all__ = [
    "MAX_NAME_LENGTH",
    "NAME_RULE",
    "ModelName",
    "Objective",
    "Sampling",
    "SessionId",
    "TextPiece",
    "TaskId",
    "TenantId",
    "TokenLogprob",
    "VariableId",
    "WorkerId",
    "check_name",
    "fresh_id",
    "ids_from",
    "is_name",
    "item_variable",
    "raw_variable",
]

TenantId = NewType("TenantId", str)
SessionId = NewType("SessionId", str)
VariableId = NewType("VariableId", str)
TaskId = NewType("TaskId", str)
WorkerId = NewType("WorkerId", str)
ModelName = NewType("ModelName", str)

MAX_NAME_LENGTH: Final = 64
NAME_RULE = f"use 1 to {MAX_NAME_LENGTH} of the characters A-Z a-z 0-9 _ -"
_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME_LENGTH}}}")


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


def raw_variable(variable: str) -> VariableId:
    """The variable of the text that the transforms of an output are given."""
    return VariableId(check_name("variable", f"{variable}-raw"))


def item_variable(variable: str, index: int) -> VariableId:
    """The variable of one item of a list, counted from 0."""
    return VariableId(check_name("variable", f"{variable}-{index}"))


def fresh_id(prefix: str) -> str:
    """A name that nobody else will choose: `prefix` and 80 random bits."""
    return f"{prefix}-{_hex_source.get()(10)}"


_hex_source: ContextVar[Callable[[int], str]] = ContextVar("hex_source", default=secrets.token_hex)


@contextmanager
def ids_from(hex_source: Callable[[int], str]) -> Iterator[None]:
    """Within the block, and in the tasks that are started in it, `fresh_id` takes its bits from elsewhere.

    For simulations, in which nothing may be left to chance.

    Args:
        hex_source: Gives so many bytes in hex, as `secrets.token_hex` does.
    """
    token = _hex_source.set(hex_source)
    try:
        yield
    finally:
        _hex_source.reset(token)


TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]

TOKEN_ID_PATTERN: Final = r"^(-?0|[1-9][0-9]*)$"
"""A token id as the key of an object."""
MAX_BIASED_TOKENS: Final = 1024
MAX_STOP_TOKENS: Final = 256
MAX_LOGPROBS: Final = 20
"""The bound of OpenAI and, by default, vLLM."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How one output is generated.

    Each token is chosen in this order: penalties, `logit_bias` and `min_tokens` change the logits; a constraint, if
    there is one, forbids tokens; `temperature`, `top_k`, `top_p`, `min_p`; one of the tokens that are left is drawn.

    Attributes:
        max_tokens: Most tokens that are generated.
        min_tokens: Before this many tokens neither the model's end of text, nor `stop_token_ids`, nor `stop` ends the
            output; at most `max_tokens`.
        stop: Strings that end the output; they are not part of it.
        stop_token_ids: Tokens that end the output; their text is not part of it.
        ignore_eos: Whether the output goes on when the model ends the text.
        temperature: 0 takes the likeliest token at each step; larger is more varied.
        top_p: Keep the likeliest tokens whose probabilities sum to this.
        top_k: Keep this many of the likeliest tokens; 0 keeps all.
        min_p: Keep tokens at least this probable, as a share of the likeliest token's probability; 0 keeps all.
        repetition_penalty: Logits of tokens that prompt or output have: positive ones are divided by this, others
            multiplied; 1 changes nothing, above 1 discourages repetition.
        presence_penalty: Subtracted from the logits of tokens that the output has.
        frequency_penalty: Subtracted from a token's logit as many times as the output has the token.
        logit_bias: Added to the logit of each token that is named; keys are token ids, as text such as `"50256"`.
        logprobs: For each token of the output, tell its log probability and those of this many of the likeliest tokens,
            before anything above changed them; 0 tells nothing.
        seed: Makes sampling repeatable, 64 bits; without it the address of the output (tenant, session, variable) is
            hashed.
    """

    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 256
    min_tokens: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    stop: tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=256)], ...] = ()
    stop_token_ids: Annotated[tuple[TokenId, ...], msgspec.Meta(max_length=MAX_STOP_TOKENS)] = ()
    ignore_eos: bool = False
    temperature: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] = 1.0
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    logit_bias: Annotated[
        Mapping[TokenId, Annotated[float, msgspec.Meta(ge=-100, le=100)]],
        msgspec.Meta(max_length=MAX_BIASED_TOKENS, extra_json_schema={"propertyNames": {"pattern": TOKEN_ID_PATTERN}}),
    ] = {}
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)] = 0
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None

    def __post_init__(self) -> None:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"Expected `min_tokens` <= `max_tokens` ({self.max_tokens}), got {self.min_tokens}")

    def __hash__(self) -> int:
        return hash((frozenset(self.logit_bias.items()), *(getattr(self, name) for name in _HASHED)))


_HASHED: Final = tuple(name for name in Sampling.__struct_fields__ if name != "logit_bias")


PositiveMs = Annotated[float, msgspec.Meta(gt=0, le=86_400_000)]


class Objective(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What somebody wants of a variable: that it comes soon, or that all of the work ends soon.

    Attributes:
        kind: `latency` for what somebody waits for, `throughput` for what only has to be finished.
        ttft_ms: Milliseconds from the moment the prompt is known to the first token, if that matters.
        tpot_ms: Milliseconds that each further token may take, if that matters.
        deadline_s: Seconds after the task was stored; afterwards the variable is of no use, and its generation is not
            started.

    Source: Parrot, OSDI'24, section 4.1 (the criteria of `get`); the targets are named there as extensions.
    """

    kind: Literal["latency", "throughput"] = "latency"
    ttft_ms: PositiveMs | None = None
    tpot_ms: PositiveMs | None = None
    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=7 * 86400)] | None = None


class TokenLogprob(msgspec.Struct, frozen=True, omit_defaults=True):
    """How likely a token of an output was, before penalties, biases, constraints and filters changed anything.

    Attributes:
        token_id: The token.
        logprob: Natural logarithm of its probability, at least -9999.
        alternatives: The likeliest tokens in falling order, each with its log probability: as many as `logprobs` of the
            sampling says. The token may be among them.
    """

    token_id: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


class TextPiece(str):
    """New text of a variable that is being generated.

    Attributes:
        logprobs: If the sampling asks for them, of the tokens that came with this text. Some may be missing: they are
            not stored, and travel at most once.
    """

    __slots__ = ("logprobs",)

    logprobs: tuple[TokenLogprob, ...]

    def __new__(cls, text: str, logprobs: Iterable[TokenLogprob] = ()) -> TextPiece:
        piece = super().__new__(cls, text)
        piece.logprobs = tuple(logprobs)
        return piece
