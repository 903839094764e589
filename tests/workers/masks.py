"""Constraints written by hand."""

from __future__ import annotations

from collections.abc import Iterable

from parrot_workers.engine.logits_mask import MaskWords

__all__ = ["BrokenMask", "NumberMask", "allow"]


def allow(words: MaskWords, token_ids: Iterable[int]) -> None:
    """Set the bits of these tokens, and no others."""
    words[:] = 0
    unsigned = words.view("uint32")
    for token_id in token_ids:
        unsigned[token_id // 32] |= 1 << token_id % 32


class NumberMask:
    """The regular expression `-?[0-9]{1,max_digits}` over bytes, as an automaton; then the end of the text.

    Args:
        eos_token_id: Allowed after the first digit; none: the output ends when no digit may follow.
        max_digits: Most digits.
    """

    def __init__(self, *, eos_token_id: int | None, max_digits: int = 4) -> None:
        self._eos = () if eos_token_id is None else (eos_token_id,)
        self._max_digits = max_digits
        self._text = ""

    @property
    def is_finished(self) -> bool:
        return not self._eos and self._num_digits == self._max_digits

    def fill(self, words: MaskWords) -> None:
        digits = b"0123456789" if self._num_digits < self._max_digits else b""
        sign = b"-" if not self._text else b""
        allow(words, [*digits, *sign, *(self._eos if self._num_digits else ())])

    def accept(self, token_id: int) -> None:
        assert chr(token_id) in "-0123456789", f"token {token_id} was not allowed"
        self._text += chr(token_id)

    @property
    def _num_digits(self) -> int:
        return len(self._text.lstrip("-"))


class BrokenMask:
    """Raises when it is asked."""

    is_finished = False

    def fill(self, words: MaskWords) -> None:
        raise RuntimeError("no grammar")

    def accept(self, token_id: int) -> None:
        raise AssertionError("nothing was allowed")
