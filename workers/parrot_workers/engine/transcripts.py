"""Texts that this engine wrote, as the tokens it wrote them in: a continuation then meets its own cache."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["KnownPrefix", "Transcripts"]


class KnownPrefix(NamedTuple):
    """The beginning of a prompt whose tokens are known.

    Attributes:
        num_characters: Its length as text.
        token_ids: Its tokens, as they were read and written.
    """

    num_characters: int
    token_ids: Sequence[int]


class Transcripts:
    """Remembers prompt and output of what was finished last, by a digest of the text.

    A model may write a text in other tokens than the tokenizer reads it in. A prompt that goes on after an output would
    then miss the cache from the first such token on; so the output keeps its own tokens there.

    Args:
        max_entries: How many are remembered.
    """

    def __init__(self, max_entries: int = 4096) -> None:
        self._max_entries = max_entries
        self._token_ids: OrderedDict[bytes, tuple[int, ...]] = OrderedDict()

    def add(self, salt: str, text: str, token_ids: Iterable[int]) -> None:
        """Remember that `text`, prompt and output, was these tokens."""
        digest = _digest(salt, text)
        self._token_ids[digest] = tuple(token_ids)
        self._token_ids.move_to_end(digest)
        if len(self._token_ids) > self._max_entries:
            self._token_ids.popitem(last=False)

    def longest(self, salt: str, prompt: str, ends: Sequence[int]) -> KnownPrefix | None:
        """Find the longest known beginning of a prompt.

        Args:
            salt: Whose texts.
            prompt: The prompt.
            ends: Characters before each place where an output may have ended, ascending.
        """
        for end in reversed(ends):
            if (token_ids := self._token_ids.get(_digest(salt, prompt[:end]))) is not None:
                return KnownPrefix(end, token_ids)
        return None


def _digest(salt: str, text: str) -> bytes:
    key = hashlib.blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=key).digest()
