"""What simulated workers write: texts that follow from the prompt, in tokens of four characters."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias
from zlib import crc32

from parrot_mq.errors import EngineFailure, ParrotError
from parrot_mq.messages import Generation
from parrot_mq.testing.simulated_requests import CHARACTERS_PER_TOKEN
from parrot_mq.types import Sampling

__all__ = ["Answer", "SimulatedText", "simulated_text", "write_output"]

Answer: TypeAlias = Callable[[str], str]
"""What is written for a prompt. A `ParrotError` that it raises is the failure of the generation; what else it raises
becomes an `EngineFailure`."""


@dataclass(frozen=True, slots=True)
class SimulatedText:
    """An output before it is generated.

    Attributes:
        text: All of it.
        token_ids: One number for each token; equal texts have equal ones.
    """

    text: str
    token_ids: tuple[int, ...]

    def piece(self, begin: int, end: int) -> str:
        """The text of these tokens."""
        return self.text[begin * CHARACTERS_PER_TOKEN : end * CHARACTERS_PER_TOKEN]


def write_output(generation: Generation, prompt: str, answer: Answer | None) -> SimulatedText:
    """The output of a generation: what `answer` says, or words that follow from prompt, sampling and seed.

    `max_tokens` and `stop` of the sampling cut it. It is the same on every worker and at every attempt.
    """
    sampling = generation.sampling
    if answer is None:
        seed = sampling.seed if sampling.seed is not None else generation.key
        text = simulated_text(prompt, sampling, seed=str(seed))
    else:
        text = _ask(answer, prompt)
    ends = [place for stop in sampling.stop if (place := text.find(stop)) >= 0]
    text = text[: min([sampling.max_tokens * CHARACTERS_PER_TOKEN, *ends])]
    pieces = [text[begin : begin + CHARACTERS_PER_TOKEN] for begin in range(0, len(text), CHARACTERS_PER_TOKEN)]
    return SimulatedText(text, tuple(crc32(piece.encode()) >> 1 for piece in pieces or [""]))


def _ask(answer: Answer, prompt: str) -> str:
    try:
        return answer(prompt)
    except ParrotError:
        raise
    except Exception as error:
        raise EngineFailure(cause=f"{type(error).__name__}: {error}") from error


def simulated_text(prompt: str, sampling: Sampling, *, seed: str) -> str:
    """Words of three letters: `max_tokens` of them with `ignore_eos`, otherwise some number from `min_tokens` on."""
    digest = hashlib.blake2b(f"{seed}\0{prompt}".encode()).digest()
    least = max(1, sampling.min_tokens)
    num_words = sampling.max_tokens
    if not sampling.ignore_eos:
        num_words = least + int.from_bytes(digest[:4]) % (sampling.max_tokens - least + 1)
    stream = hashlib.shake_128(digest).digest(3 * num_words)
    letters = [_CONSONANTS, _VOWELS, _CONSONANTS]
    words = ("".join(letters[i][stream[3 * n + i] % len(letters[i])] for i in range(3)) for n in range(num_words))
    return " ".join(words) + "."


_CONSONANTS = "bdfgklmnprstvz"
_VOWELS = "aeiou"
