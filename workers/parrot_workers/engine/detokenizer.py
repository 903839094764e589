"""Token ids to text while they arrive: never half a character, and never what may become a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["Detokenizer", "StopMatcher"]

_REPLACEMENT = "\ufffd"
_NUM_CONTEXT_TOKENS = (6, 7, 8, 9)  # of the prompt; four in a row, so that one of them begins with a whole character
_MAX_HELD_TOKENS = 8  # a character has four bytes at most, so more tokens than this cannot all wait for one


class Detokenizer:
    """Decodes a growing list of tokens.

    A tokenizer decodes a list of tokens, and the text of a token depends on its neighbours: SentencePiece drops the
    space before the first word, and a character may be spread over several byte tokens. So the new text is what
    decoding *some tokens before, and the new ones* adds to decoding those before. Text that ends in U+FFFD is held:
    more bytes may complete the character.

    Args:
        decode: Token ids to text; bytes that are no UTF-8 become U+FFFD.
        prompt_ids: Tokens before the output; the output's first space is kept where the prompt's end calls for one.
    """

    def __init__(self, decode: Callable[[list[int]], str], prompt_ids: Sequence[int]) -> None:
        self._decode = decode
        tails = [list(prompt_ids[-length:]) for length in _NUM_CONTEXT_TOKENS]
        self._context = min(tails, key=lambda tail: decode(tail).count(_REPLACEMENT))
        self._context_text = decode(self._context)
        self._held: list[int] = []

    def push(self, token_id: int) -> str:
        """Add a token. Returns: the text that is certain now, perhaps none."""
        self._held.append(token_id)
        text = self._decode(self._context + self._held)
        is_whole = text.startswith(self._context_text) and not text.endswith(_REPLACEMENT)
        if is_whole and text != self._context_text:
            return self._tell(len(self._held), text[len(self._context_text) :])
        # A token without text, a special one or a space that may yet turn out to be none, waits for the next.
        return self._give_way() if len(self._held) > _MAX_HELD_TOKENS else ""

    def flush(self) -> str:
        """End the output. Returns: the rest; an incomplete character becomes U+FFFD."""
        text = self._decode(self._context + self._held)
        if text.startswith(self._context_text):
            return self._tell(len(self._held), text[len(self._context_text) :])
        return self._tell(len(self._held), self._decode(self._held))

    def _give_way(self) -> str:
        """Tell the older held tokens, cut where fewest characters break; the last three may be an unfinished one."""

        def num_broken(cut: int) -> int:
            return (self._decode(self._held[:cut]) + self._decode(self._held[cut:])).count(_REPLACEMENT)

        cut = min(range(len(self._held) - 3, 0, -1), key=num_broken)
        return self._tell(cut, self._decode(self._held[:cut]))

    def _tell(self, num_tokens: int, text: str) -> str:
        """Make the first held tokens the context of what follows."""
        self._context, self._held = self._held[:num_tokens], self._held[num_tokens:]
        self._context_text = self._decode(self._context)
        return text


class StopMatcher:
    """Ends a text before the first stop string that is completed.

    The result does not depend on how the text was cut into pieces. If one character completes several stop strings, the
    text ends before the one that began first.

    Args:
        stops: Strings that end the text; none empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self._num_early = 0  # leading characters of what is held that complete no stop string
        self.is_matched = False

    def push(self, text: str, *, is_early: bool = False) -> str:
        """Add text. Returns: what is certainly before any stop string, perhaps nothing.

        Args:
            text: The next characters.
            is_early: Whether no stop string may end in them; one may begin.
        """
        if not self._stops or self.is_matched:
            return "" if self.is_matched else text
        text = self._held + text
        num_early = len(text) if is_early else self._num_early
        if places := self._places(text, num_early):
            self.is_matched, self._held = True, ""
            return text[: min(places)[1]]
        certain = len(text) - max(_overlap(text, stop) for stop in self._stops)
        self._held, self._num_early = text[certain:], max(0, num_early - certain)
        return text[:certain]

    def _places(self, text: str, num_early: int) -> list[tuple[int, int]]:
        """End and begin of each stop string's first occurrence that ends after the early characters."""
        begins = ((stop, text.find(stop, max(0, num_early - len(stop) + 1))) for stop in self._stops)
        return [(begin + len(stop), begin) for stop, begin in begins if begin >= 0]

    def flush(self) -> str:
        """End the text. Returns: what was held back, since no stop string came of it."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`, and is not all of it."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
