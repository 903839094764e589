"""From the prompt of a request to its tokens."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from parrot_mq.errors import ContextLengthExceeded, EngineFailure
from parrot_workers.engine.base import GenerationRequest, PrefillRequest
from parrot_workers.engine.transcripts import KnownPrefix, Transcripts
from parrot_workers.models import LoadedModel

__all__ = ["PromptReader", "ReadPrompt"]

Offsets = list[tuple[int, int]]


class ReadPrompt(NamedTuple):
    """A prompt as the model reads it.

    Attributes:
        token_ids: Its tokens, at least one.
        prefixes: Of its leading parts the name (prefix hash) and the number of tokens wholly inside.
    """

    token_ids: list[int]
    prefixes: list[tuple[str, int]]


class PromptReader:
    """Tokenizes prompts as a whole, so that a task reads exactly what `transformers` would read, with one exception: a
    beginning that this engine has read and written before keeps the tokens it was written in.

    Args:
        model: Whose tokenizer.
        max_context_tokens: Most tokens of prompt and output together.
    """

    def __init__(self, model: LoadedModel, *, max_context_tokens: int) -> None:
        self._model = model
        self._max_context_tokens = max_context_tokens
        self._transcripts = Transcripts()

    def read(self, request: GenerationRequest) -> ReadPrompt:
        """Tokenize a prompt and see whether it fits.

        Raises:
            ContextLengthExceeded: Prompt and output together may be longer than the context.
            EngineFailure: The prompt is empty, or has tokens that the model does not know.
        """
        self._model.check_ids(request.output_ids)
        return self._read(request, request.sampling.max_tokens)

    def read_beginning(self, request: PrefillRequest) -> ReadPrompt:
        """Tokenize the beginning of a prompt. What follows may change its last tokens; raises as `read` does."""
        return self._read(request, 1)

    def remember(self, request: GenerationRequest, output: str, token_ids: Sequence[int]) -> None:
        """Keep the tokens of a prompt and its output for those that go on from there."""
        if isinstance(request.prompt, str):
            self._transcripts.add(request.salt, request.prompt + output, token_ids)

    def _read(self, request: GenerationRequest | PrefillRequest, max_tokens: int) -> ReadPrompt:
        if isinstance(request.prompt, str):
            read = self._read_text(request, request.prompt)
        else:
            self._model.check_ids(request.prompt)
            read = ReadPrompt(list(request.prompt), [])
        if not read.token_ids:
            raise EngineFailure(cause="the prompt has no tokens; give at least one")
        if len(read.token_ids) + max_tokens > self._max_context_tokens:
            raise ContextLengthExceeded(
                num_prompt_tokens=len(read.token_ids), max_tokens=max_tokens, limit=self._max_context_tokens
            )
        return read

    def _read_text(self, request: GenerationRequest | PrefillRequest, prompt: str) -> ReadPrompt:
        if not request.prefix_ends:
            return ReadPrompt(self._model.encode(prompt), [])
        token_ids, offsets = self._model.encode_with_offsets(prompt)
        if offsets is None:
            return ReadPrompt(token_ids, [])
        known = self._transcripts.longest(request.salt, prompt, request.prefix_ends)
        read_ids = _with_known(token_ids, offsets, known) if known else token_ids
        counts = [
            _num_inside(end, token_ids, offsets, read_ids, known if read_ids is not token_ids else None)
            for end in request.prefix_ends
        ]
        return ReadPrompt(read_ids, list(zip(request.prefix_hashes, counts, strict=False)))


def _with_known(token_ids: list[int], offsets: Offsets, known: KnownPrefix) -> list[int]:
    """Put the known tokens in front, if a token begins just where they end; else leave everything as it was read."""
    cut = bisect_left(offsets, known.num_characters, key=lambda offset: offset[0])
    if cut < len(offsets) and offsets[cut][0] != known.num_characters:
        return token_ids
    if cut and offsets[cut - 1][1] > known.num_characters:
        return token_ids
    joined = [*known.token_ids, *token_ids[cut:]]
    return token_ids if joined == token_ids else joined


def _num_inside(
    end: int, token_ids: list[int], offsets: Offsets, read_ids: list[int], known: KnownPrefix | None
) -> int:
    """Count the tokens of `read_ids` that lie wholly in the first `end` characters."""
    num_read = bisect_right(offsets, end, key=lambda offset: offset[1])
    if known is None:
        return num_read
    if end >= known.num_characters:
        return num_read + len(read_ids) - len(token_ids)
    return num_read if read_ids[:num_read] == token_ids[:num_read] else 0
