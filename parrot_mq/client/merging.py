"""The pieces of a text put together: whatever is lost, repeated or late, never a gap and never a repeat."""

from __future__ import annotations

import heapq
import itertools

from parrot_mq.errors import GenerationAborted
from parrot_mq.messages import TokenDelta
from parrot_mq.types import TextPiece

__all__ = ["StreamReader"]

MAX_HELD = 65_536
"""Characters beyond a gap that are kept; what is beyond them is asked for when the gap is closed."""


class StreamReader:
    """Merges the deltas of one variable, and answers to replay requests, by their offsets.

    Only the newest attempt is followed: it writes again, or replays, whatever an older one wrote. If its text is not
    the one that was read so far, nothing more is read from deltas: which of the texts counts, the value tells.

        read:  [0, num_read)    what `feed` returned, joined
        held:  [offset, …)      beyond a gap, sorted by offset, at most `MAX_HELD` characters

    Args:
        variable: Its name, for errors.
        max_held: Characters that are held.
    """

    def __init__(self, variable: str, *, max_held: int = MAX_HELD) -> None:
        self._variable = variable
        self._room = max_held
        self._text = ""
        self._attempt = 0
        self._end = 0  # of what was heard of this attempt
        self._held: list[tuple[int, int, TokenDelta]] = []  # a heap; the number in the middle makes entries comparable
        self._counter = itertools.count()
        self._has_strayed = False

    @property
    def num_read(self) -> int:
        """Characters read so far: the offset at which the text goes on."""
        return len(self._text)

    @property
    def has_begun(self) -> bool:
        """Whether anything of the text was heard."""
        return self._end > 0 or bool(self._text)

    @property
    def has_gap(self) -> bool:
        """Whether there is text beyond what was read: something before it was missed."""
        return self._end > self.num_read and not self._has_strayed

    def feed(self, delta: TokenDelta) -> list[TextPiece]:
        """Take a delta, wherever it belongs. Returns: the text that is new, in order; mostly one piece or none."""
        if self._has_strayed or delta.attempt < self._attempt:
            return []
        if delta.attempt > self._attempt:
            self._follow(delta.attempt)
        self._end = max(self._end, delta.offset + len(delta.text))
        if delta.offset > self.num_read:
            self._hold(delta)
            return []
        pieces = self._append(delta)
        while self._held and self._held[0][0] <= self.num_read:
            pieces += self._append(self._release())
        return pieces

    def finish(self, text: str) -> TextPiece | None:
        """Take the value. Returns: what of it is missing.

        Raises:
            GenerationAborted: What was read is not its beginning: another attempt has written it.
        """
        if not text.startswith(self._text):
            reason = "another attempt wrote another text; read the variable with `await`"
            raise GenerationAborted(reason, variable=self._variable)
        rest, self._text = text[self.num_read :], text
        return TextPiece(rest) if rest else None

    def _follow(self, attempt: int) -> None:
        self._attempt, self._end = attempt, 0
        while self._held:
            self._release()

    def _append(self, delta: TokenDelta) -> list[TextPiece]:
        """Take a delta that begins in what was read, or just behind it."""
        known = self._text[delta.offset : delta.offset + len(delta.text)]
        if not delta.text.startswith(known):
            self._has_strayed = True
            return []
        text = delta.text[len(known) :]
        self._text += text
        return [TextPiece(text, delta.logprobs)] if text else []

    def _hold(self, delta: TokenDelta) -> None:
        if 0 < len(delta.text) <= self._room:
            self._room -= len(delta.text)
            heapq.heappush(self._held, (delta.offset, next(self._counter), delta))

    def _release(self) -> TokenDelta:
        delta = heapq.heappop(self._held)[2]
        self._room += len(delta.text)
        return delta
