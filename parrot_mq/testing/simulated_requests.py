"""What a simulated engine is given, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from parrot_mq.errors import ParrotError
from parrot_mq.testing.simulated_cache import SimulatedSegment

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "EngineEvent",
    "Failed",
    "Finished",
    "Prefilled",
    "SimulatedPrefill",
    "SimulatedRequest",
    "SimulatedSegment",
    "Started",
    "Token",
    "count_tokens",
]

CHARACTERS_PER_TOKEN: Final = 4


def count_tokens(text: str) -> int:
    """The tokens of a segment: one for every four characters begun. Those of a prompt are the sum of its segments'."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


# -- what goes in ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRequest:
    """One output to generate.

    Attributes:
        key: Names the request in every event; unique among those that have not ended.
        segments: The prompt; each hash covers all before it.
        num_output_tokens: How long the output will be, at least 1.
        salt: Requests with different salts share no cache.
        deadline: It is not started after this time.
        num_continued_tokens: Of the output, tokens that an earlier attempt generated.
        output_hash: Under this hash the output stays in the cache; empty if nobody can continue it.
        tpot_target_s: Seconds that each token may take, for a reader who waits: such requests go first, and no step
            reads so much of other prompts that it takes longer.
    """

    key: str
    segments: tuple[SimulatedSegment, ...]
    num_output_tokens: int
    salt: str = ""
    deadline: float = float("inf")
    num_continued_tokens: int = 0
    output_hash: str = ""
    tpot_target_s: float | None = None

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return sum(segment.num_tokens for segment in self.segments)


@dataclass(frozen=True, slots=True)
class SimulatedPrefill:
    """The known beginning of the prompt that the request `key` will have."""

    key: str
    segments: tuple[SimulatedSegment, ...]
    salt: str = ""


# -- what comes out --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt has been read.

    Attributes:
        key: The request.
        num_prompt_tokens: Tokens of its prompt.
        num_shared_tokens: Of these, tokens that were computed for another request or ahead.
        num_prefilled_tokens: Of the shared ones, tokens that were computed ahead for this very request.
    """

    key: str
    num_prompt_tokens: int
    num_shared_tokens: int
    num_prefilled_tokens: int


@dataclass(frozen=True, slots=True)
class Token:
    """One more token of an output; `index` counts from 0 and includes those of an earlier attempt."""

    key: str
    index: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The output is complete; the numbers are as in `Started`."""

    key: str
    num_prompt_tokens: int
    num_shared_tokens: int
    num_prefilled_tokens: int
    num_output_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The request was given up. A cancelled one ends so too, with `TaskCancelled`."""

    key: str
    error: ParrotError


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The prefill of this key is computed."""

    key: str


EngineEvent: TypeAlias = Started | Token | Finished | Failed | Prefilled
