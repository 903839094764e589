"""A ready generation as its dispatcher keeps it, and how many tokens it probably is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from parrot_mq.coordinator.sessions.ready import Known, ReadyGeneration
from parrot_mq.messages import BlobRef
from parrot_mq.program import Standing

__all__ = ["Job", "Prefix", "Size", "SizeModel", "measure", "name_prefixes"]


class Prefix(NamedTuple):
    """Names cached content: who has other content or another salt does not share it."""

    salt: str
    hash: str


def name_prefixes(salt: str, hashes: Iterable[str]) -> tuple[Prefix, ...]:
    """The prefixes of a prompt, the shortest first."""
    return tuple(Prefix(salt, each) for each in hashes)


def measure(segments: Iterable[Known]) -> tuple[int, ...]:
    """Characters of a prompt up to the end of each segment; of a large value its bytes."""
    return tuple(accumulate(each.size_bytes if isinstance(each, BlobRef) else len(each) for each in segments))


@dataclass(slots=True, eq=False)
class Job:
    """A generation that waits for a worker or is at one.

    Attributes:
        generation: What to generate, as the next assignment will say it.
        prefixes: Of its prompt, the shortest first.
        ends: Characters of its prompt up to the end of each prefix.
        standing: What is wanted of it now.
        arrived_at: When it became ready (monotonic seconds, like all times here).
        expires_at: Not started after this.
        place: When its session came, as far as that counts: who came first goes first.
        number: Of equal jobs the smaller one goes first.
        num_lost: Attempts that count against it.
        waits_since: Since when it waits for a worker that holds its prefix; None if it does not.
        has_aged: It has waited so long that it counts as urgent, and as latency work.
    """

    generation: ReadyGeneration
    prefixes: tuple[Prefix, ...]
    ends: tuple[int, ...]
    standing: Standing
    arrived_at: float
    expires_at: float
    place: float
    number: int
    num_lost: int = 0
    waits_since: float | None = None
    has_aged: bool = False
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = self.generation.key

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.generation.address.tenant

    @property
    def session(self) -> str:
        """Names its session in the service: `tenant.session`."""
        return self.key.rpartition(".")[0]

    @property
    def is_urgent(self) -> bool:
        """Whether it goes before what only has to be finished some time."""
        return self.has_aged or self.standing.is_urgent

    @property
    def is_latency(self) -> bool:
        """Whether it must not be slowed down by others in its batch."""
        return self.standing.objective.kind == "latency"


class Size(NamedTuple):
    """Tokens of a job, as expected.

    Attributes:
        ends: Tokens of the prompt up to the end of each prefix.
        num_output: Tokens that are still to be generated.
    """

    ends: tuple[int, ...]
    num_output: int

    @property
    def num_prompt(self) -> int:
        """Tokens of the whole prompt."""
        return self.ends[-1] if self.ends else 0


CHARACTERS_PER_TOKEN = 4.0
"""Of English text in the vocabularies of today's models."""
_MIN_CHARACTERS = 100
"""Shorter prompts say little about characters per token."""


class SizeModel:
    """Guesses tokens from characters and from `max_tokens`, and learns from what workers tell.

    Args:
        weight: Share of the newest observation in the mean.
    """

    def __init__(self, *, weight: float = 0.05) -> None:
        self._weight = weight
        self._characters_per_token = CHARACTERS_PER_TOKEN
        self._output_share = 1.0  # of `max_tokens`; before anything is known, all of them

    @property
    def characters_per_token(self) -> float:
        """Of prompts, in the mean."""
        return self._characters_per_token

    @property
    def output_share(self) -> float:
        """Of `max_tokens`, what is generated in the mean."""
        return self._output_share

    def size(self, job: Job) -> Size:
        """How large a job is."""
        num_done = len(job.generation.output_ids)
        return Size(self.tokens(job.ends), max(1, self.num_output(job.generation.sampling.max_tokens) - num_done))

    def tokens(self, num_characters: Iterable[int]) -> tuple[int, ...]:
        """Numbers of characters as numbers of tokens."""
        per_token = self._characters_per_token
        return tuple(int(each / per_token) + 1 for each in num_characters)

    def num_output(self, max_tokens: int) -> int:
        """Tokens that will be generated where `max_tokens` may be."""
        return max(1, round(max_tokens * self._output_share))

    def learn_prompt(self, *, num_characters: int, num_tokens: int) -> None:
        """A worker has read a prompt."""
        if num_tokens > 0 and num_characters >= _MIN_CHARACTERS:
            seen = num_characters / num_tokens
            self._characters_per_token += self._weight * (seen - self._characters_per_token)

    def learn_output(self, *, max_tokens: int, num_tokens: int) -> None:
        """A generation has ended after `num_tokens`."""
        seen = min(num_tokens / max_tokens, 1.0)
        self._output_share += self._weight * (seen - self._output_share)
