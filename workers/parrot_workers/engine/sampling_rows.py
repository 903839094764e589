"""What the rows of a batch ask of the sampler, as tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from parrot_mq.errors import EngineFailure, ParrotError
from parrot_mq.types import Sampling
from parrot_workers.engine.filters import Filters
from parrot_workers.engine.logits_mask import LogitsMask, num_mask_words
from parrot_workers.engine.penalties import Penalties
from parrot_workers.engine.random_numbers import seeds_array, uniforms
from parrot_workers.engine.transfer import to_device

__all__ = ["SamplingRow", "SamplingRows", "TokenBiases"]

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SamplingRow:
    """One text while it is sampled. Made by `Sampler.open`, ended by `Sampler.close`.

    Attributes:
        sampling: How its tokens are chosen.
        seed: Random numbers are keyed by (seed, index of the output token).
        ending_ids: Tokens that end it, and are suppressed before `min_tokens`.
        mask: Its constraint.
        slot: Where its tokens are counted; none if it has no penalties.
    """

    sampling: Sampling
    seed: int
    ending_ids: tuple[int, ...]
    mask: LogitsMask | None
    slot: int | None

    @property
    def is_drawn(self) -> bool:
        """Whether chance has a say: of equally likely tokens, too, top-k of 1 is to keep one only."""
        return self.sampling.temperature > 0 and self.sampling.top_k != 1


class TokenBiases(NamedTuple):
    """Numbers to add to single logits: tensors of shape [num_biases]; no place twice.

    Attributes:
        rows: int64.
        token_ids: int64.
        values: fp32.
    """

    rows: torch.Tensor
    token_ids: torch.Tensor
    values: torch.Tensor


class SamplingRows:
    """The rows of a batch, in the order of their logits. Tensors are made once, when they are first asked for.

    Args:
        rows: What each row asks for; no row twice.
        vocab_size: Length of a row of logits.
        device: Where the logits are.
    """

    def __init__(self, rows: Sequence[SamplingRow], *, vocab_size: int, device: torch.device) -> None:
        self.rows = tuple(rows)
        self._vocab_size = vocab_size
        self._device = device
        self._seeds = seeds_array([row.seed for row in rows])
        self.drawn = self._select(lambda row: row.is_drawn)
        self.penalized = self._select(lambda row: row.slot is not None)
        self.masked = self._select(lambda row: row.mask is not None)
        self.told = self._select(lambda row: row.sampling.logprobs > 0)
        self._delayed = self._select(lambda row: row.sampling.min_tokens > 0 and bool(row.ending_ids))
        self._has_biases = any(row.sampling.logit_bias for row in rows)

    def __len__(self) -> int:
        return len(self.rows)

    def index(self, selected: Sequence[int]) -> torch.Tensor:
        """Row numbers as a tensor, shape [num_selected], int64."""
        return self._tensor(selected, np.int64)

    # -- drawn rows --------------------------------------------------------------------------------------------------

    @cached_property
    def drawn_index(self) -> torch.Tensor:
        """Rows that are drawn, shape [num_drawn], int64."""
        return self.index(self.drawn)

    @cached_property
    def filters(self) -> Filters:
        """How the drawn rows are filtered."""
        samplings = [self.rows[row].sampling for row in self.drawn]
        vocab_size = self._vocab_size
        top_k = [s.top_k if 0 < s.top_k < vocab_size else vocab_size for s in samplings]
        has_cut = any(s.top_p < 1.0 or k < vocab_size for s, k in zip(samplings, top_k, strict=True))
        return Filters(
            temperature=self._tensor([s.temperature for s in samplings], np.float32),
            top_k=self._tensor(top_k, np.int64),
            top_p=self._tensor([s.top_p for s in samplings], np.float32),
            min_p=self._tensor([s.min_p for s in samplings], np.float32),
            max_top_k=max((k for k in top_k if k < vocab_size), default=0),
            has_threshold=has_cut or any(s.min_p > 0.0 for s in samplings),
            has_cut=has_cut,
            has_open_cut=any(s.top_p < 1.0 and k == vocab_size for s, k in zip(samplings, top_k, strict=True)),
        )

    def uniforms(self, positions: IntArray) -> torch.Tensor:
        """Random numbers of the drawn rows, shape [num_drawn], fp64.

        Args:
            positions: Index of the output token that each row of the batch gets, shape [num_rows], int64.
        """
        return to_device(uniforms(self._seeds[self.drawn], positions[self.drawn]), self._device)

    # -- rows whose logits change ------------------------------------------------------------------------------------

    @cached_property
    def penalized_index(self) -> torch.Tensor:
        """Rows with penalties, shape [num_penalized], int64."""
        return self.index(self.penalized)

    @cached_property
    def penalties(self) -> Penalties:
        """Their penalties."""
        samplings = [self.rows[row].sampling for row in self.penalized]
        return Penalties(
            slots=self._tensor([self.rows[row].slot for row in self.penalized], np.int64),
            repetition=self._tensor([s.repetition_penalty for s in samplings], np.float32),
            presence=self._tensor([s.presence_penalty for s in samplings], np.float32),
            frequency=self._tensor([s.frequency_penalty for s in samplings], np.float32),
            has_repetition=any(s.repetition_penalty != 1.0 for s in samplings),
            has_counted=any((s.presence_penalty, s.frequency_penalty) != (0.0, 0.0) for s in samplings),
        )

    @cached_property
    def biases(self) -> TokenBiases | None:
        """What `logit_bias` adds; none if no row has any."""
        if not self._has_biases:
            return None
        places = [(i, *bias) for i, row in enumerate(self.rows) for bias in row.sampling.logit_bias.items()]
        rows, token_ids, values = zip(*places, strict=True)
        return TokenBiases(self.index(rows), self.index(token_ids), self._tensor(values, np.float32))

    def suppressed(self, positions: IntArray) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Places of tokens that may not end a text yet: rows and token ids, int64; none if there are none.

        Args:
            positions: As for `uniforms`.
        """
        early = [i for i in self._delayed if positions[i] < self.rows[i].sampling.min_tokens]
        if not early:
            return None
        places = np.array([(i, token_id) for i in early for token_id in self.rows[i].ending_ids], dtype=np.int64)
        rows, token_ids = to_device(np.ascontiguousarray(places.T), self._device)
        return rows, token_ids

    @cached_property
    def masked_index(self) -> torch.Tensor:
        """Rows with a constraint, shape [num_masked], int64."""
        return self.index(self.masked)

    def mask_words(self, failures: dict[int, ParrotError]) -> torch.Tensor:
        """Ask the constraints what may come next, shape [num_masked, num_mask_words(vocab_size)], int32.

        Args:
            failures: Gets the rows whose constraint raised; nothing is allowed there.
        """
        words = np.zeros((len(self.masked), num_mask_words(self._vocab_size)), dtype=np.int32)
        for row, line in zip(self.masked, words, strict=True):
            mask = self.rows[row].mask
            assert mask is not None
            try:
                mask.fill(line)
            except Exception as error:
                failures[row] = EngineFailure(cause=f"its constraint raised {type(error).__name__}: {error}")
                line[:] = 0
        return to_device(words, self._device)

    # -- rows that tell log probabilities ----------------------------------------------------------------------------

    @cached_property
    def told_index(self) -> torch.Tensor:
        """Rows that tell log probabilities, shape [num_told], int64."""
        return self.index(self.told)

    @cached_property
    def num_alternatives(self) -> int:
        """Most alternatives that a row tells."""
        return min(max(self.rows[row].sampling.logprobs for row in self.told), self._vocab_size)

    def _select(self, is_wanted: Callable[[SamplingRow], bool]) -> list[int]:
        return [number for number, row in enumerate(self.rows) if is_wanted(row)]

    def _tensor(self, values: Sequence[int | float | None], dtype: npt.DTypeLike) -> torch.Tensor:
        return to_device(np.array(values, dtype=dtype), self._device)
