"""Which tokens a text has so far, and what that does to the logits of the next one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from parrot_workers.engine.transfer import to_device

__all__ = ["Penalties", "TokenCounts", "penalize"]


class Penalties(NamedTuple):
    """Penalties of rows: tensors of shape [num_rows], on the device of the logits.

    Attributes:
        slots: Where `TokenCounts` counts the row's tokens, int64.
        repetition: fp32; 1 changes nothing.
        presence: fp32; 0 changes nothing.
        frequency: fp32; 0 changes nothing.
        has_repetition: Whether any row has a repetition penalty.
        has_counted: Whether any row has a presence or frequency penalty.
    """

    slots: torch.Tensor
    repetition: torch.Tensor
    presence: torch.Tensor
    frequency: torch.Tensor
    has_repetition: bool
    has_counted: bool


class TokenCounts:
    """Counts the tokens of texts that have penalties, one slot per text; others cost nothing.

    The counts stay on the device, so that a token can be counted before the host has read it. Memory: five bytes per
    slot and token of the vocabulary, for as many slots as were ever used at a time.

    Args:
        vocab_size: Length of a row of logits.
        device: Where the logits are.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._in_output = torch.zeros(0, vocab_size, dtype=torch.int32, device=device)
        self._in_prompt = torch.zeros(0, vocab_size, dtype=torch.bool, device=device)
        self._free: list[int] = []

    @property
    def num_used(self) -> int:
        """Texts that are counted."""
        return self._in_output.shape[0] - len(self._free)

    def add(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> int:
        """Begin to count a text. Returns: its slot."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._in_prompt[slot] = self._histogram(prompt_ids) > 0
        self._in_output[slot] = self._histogram(output_ids)
        return slot

    def remove(self, slot: int) -> None:
        """Stop counting a text; its slot may be given to another."""
        self._free.append(slot)

    def count(self, slots: torch.Tensor, token_ids: torch.Tensor) -> None:
        """Add one token to each of some outputs; no slot twice."""
        self._in_output[slots, token_ids] += 1

    def in_output(self, slots: torch.Tensor) -> torch.Tensor:
        """How often each output has each token, shape [num_slots, vocab_size], int32."""
        return self._in_output[slots]

    def in_prompt(self, slots: torch.Tensor) -> torch.Tensor:
        """Whether each prompt has each token, shape [num_slots, vocab_size], bool."""
        return self._in_prompt[slots]

    def _grow(self) -> None:
        """Twice as many slots."""
        num_slots = self._in_output.shape[0]
        num_more = max(num_slots, 1)
        self._in_output = torch.cat([self._in_output, self._in_output.new_zeros(num_more, self._in_output.shape[1])])
        self._in_prompt = torch.cat([self._in_prompt, self._in_prompt.new_zeros(num_more, self._in_prompt.shape[1])])
        self._free.extend(range(num_slots + num_more - 1, num_slots - 1, -1))

    def _histogram(self, token_ids: Sequence[int]) -> torch.Tensor:
        """How often each token occurs, shape [vocab_size], int32; counted on the host, since it has them."""
        counts = np.bincount(np.array(token_ids, dtype=np.int64), minlength=self._in_output.shape[1])
        return to_device(counts.astype(np.int32), self._in_output.device)


def penalize(logits: torch.Tensor, penalties: Penalties, counts: TokenCounts) -> torch.Tensor:
    """Make tokens that a text has already less likely, or more.

    Args:
        logits: Shape [num_rows, vocab_size], fp32.
        penalties: Per row.
        counts: What the texts have.

    Returns:
        Logits of the same shape. First the repetition penalty: logits of tokens that prompt or output have are divided
        by it if they are positive, else multiplied. Then the frequency penalty is subtracted once for each occurrence
        in the output, and the presence penalty once if there is any.

    Source: Keskar et al., CTRL, arXiv:1909.05858, section 4.1, as in transformers `RepetitionPenaltyLogitsProcessor`;
    OpenAI API reference, `frequency_penalty` and `presence_penalty`; the order is that of vLLM `apply_penalties`.
    """
    in_output = counts.in_output(penalties.slots)
    if penalties.has_repetition:
        is_seen = counts.in_prompt(penalties.slots) | (in_output > 0)
        factor = penalties.repetition[:, None]
        logits = torch.where(is_seen, torch.where(logits > 0, logits / factor, logits * factor), logits)
    if penalties.has_counted:
        logits = logits - penalties.frequency[:, None] * in_output
        logits = logits - penalties.presence[:, None] * (in_output > 0)
    return logits
