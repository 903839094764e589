"""What a constraint on the output is to an engine: which tokens may come next."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["LogitsMask", "MaskWords", "num_mask_words"]

MaskWords: TypeAlias = npt.NDArray[np.int32]
"""One bit per token, shape [num_mask_words(vocab_size)], int32. Token `i` is allowed if bit `i % 32` of word `i // 32`
is set, bit 0 being the lowest. Bits beyond the vocabulary mean nothing.

Source: the layout of xgrammar's `allocate_token_bitmask` and of `llguidance.torch.fill_next_token_bitmask`.
"""


class LogitsMask(Protocol):
    """Follows one output and says which tokens may come next: a grammar, a schema, a regular expression.

    The end of the text is a token like others: the mask allows it where the output may end. A mask that allows nothing
    fails its request, with `NoTokenAllowed`.
    """

    @property
    def is_finished(self) -> bool:
        """True when nothing can follow: the output ends here."""

    def fill(self, words: MaskWords) -> None:
        """Write which tokens may come next: every word, whatever was in it."""

    def accept(self, token_id: int) -> None:
        """Take the next token of the output, one that was allowed; not told of the token that ended the output."""


def num_mask_words(vocab_size: int) -> int:
    """Words in the mask of a vocabulary."""
    return (vocab_size + 31) // 32
