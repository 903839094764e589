"""What becomes of a variable: an error, a claim check, pieces of its text, what it cost."""

from __future__ import annotations

from typing import Annotated

import msgspec

from parrot_mq.errors import ParrotError, rebuild_error
from parrot_mq.messages.base import Count, Fact, Message
from parrot_mq.types import TokenLogprob

__all__ = ["BlobRef", "ErrorInfo", "TokenDelta", "TokenReplay", "Usage"]


class ErrorInfo(Message, frozen=True, kw_only=True, omit_defaults=True, tag="error"):
    """A failure as a value.

    Attributes:
        code: Stable name of the kind of error; `internal` is a mistake in the service.
        message: The sentence for a person.
        retryable: Whether the same attempt may succeed later.
        facts: What the sentence was made from, by name.
    """

    code: str
    message: str
    retryable: bool = False
    facts: dict[str, Fact] = {}

    @classmethod
    def from_error(cls, error: BaseException) -> ErrorInfo:
        """Describe any exception; one that is not ours becomes the code `internal`.

        Texts are made fit for the wire, so that a failure can always be told: valid Unicode, and not too long.
        """
        if isinstance(error, ParrotError):
            facts = {name: _fit_fact(value) for name, value in error.facts.items()}
            return cls(code=error.code, message=_fit(error.message), retryable=error.retryable, facts=facts)
        return cls(code="internal", message=_fit(f"{type(error).__name__}: {error}"))

    def to_error(self) -> ParrotError:
        """Rebuild the error of the same class, or a plain one with its code; facts that cannot be attributes are left
        out.
        """
        facts = {name: value for name, value in self.facts.items() if name not in _RESERVED}
        return rebuild_error(self.code, self.message, facts, self.retryable)


_MAX_ERROR_TEXT = 4096
_MAX_ERROR_ITEM = 256
_MAX_ERROR_ITEMS = 128
_RESERVED = {*dir(OSError), *dir(ParrotError), "self", "message", "facts"}
"""Names that exceptions have already; whoever writes an error on the bus chooses the names of its facts."""


def _fit(text: str, max_characters: int = _MAX_ERROR_TEXT) -> str:
    text = text.encode(errors="replace").decode()
    return text if len(text) <= max_characters else f"{text[: max_characters - 1]}…"


def _fit_fact(value: Fact) -> Fact:
    match value:
        case str():
            return _fit(value)
        case list():
            return [_fit(item, _MAX_ERROR_ITEM) for item in value[:_MAX_ERROR_ITEMS]]
    return value


class BlobRef(Message, frozen=True, kw_only=True, omit_defaults=True, tag="blob"):
    """A claim check: the value is a blob.

    Attributes:
        digest: SHA-256 of the value's bytes, in hex.
        size_bytes: How many bytes they are.
    """

    digest: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
    size_bytes: Annotated[int, msgspec.Meta(ge=0)]


class TokenDelta(Message, frozen=True, kw_only=True, omit_defaults=True, tag="token.delta"):
    """New text of a variable that is being generated.

    Attributes:
        attempt: Which attempt at the task writes; 1 is the first.
        offset: Characters (Unicode code points) of the output before this text.
        text: The new characters.
        logprobs: If the sampling asks for them, of the tokens that came with the text, in their order. Tokens after the
            last text, such as the end of the text, are not told.
    """

    attempt: Count
    offset: Count
    text: str
    logprobs: list[TokenLogprob] = []


class TokenReplay(Message, frozen=True, kw_only=True, omit_defaults=True, tag="token.replay"):
    """Ask the worker that generates a variable for the text so far, as deltas. An empty payload asks for all of it.

    Attributes:
        offset: Characters (Unicode code points) at the beginning that are known: only what follows them is sent.
    """

    offset: Count = 0


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a value cost. It travels as JSON in the header `Pmq-Usage` of the value, so it lasts as long as the value.

    Attributes:
        num_prompt_tokens: Tokens of the prompt.
        num_shared_tokens: Of these, tokens that were computed for another generation and not again.
        num_prefilled_tokens: Of the shared ones, tokens that were computed ahead for this very generation.
        num_output_tokens: Tokens generated.
        attempt: Which attempt it was.
        started_at: When the prompt had been read, seconds since 1970 on the worker's clock.
        finished_at: When the last token was there, on the same clock.
    """

    num_prompt_tokens: Count = 0
    num_shared_tokens: Count = 0
    num_prefilled_tokens: Count = 0
    num_output_tokens: Count = 0
    attempt: Count = 1
    started_at: float = 0.0
    finished_at: float = 0.0
