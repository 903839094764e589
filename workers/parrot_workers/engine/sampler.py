"""Logits to token ids. Rows do not influence each other, and nothing is drawn from a generator with a state.

The order is fixed: penalties, `logit_bias`, `min_tokens`, constraint; temperature, top-k, top-p, min-p; draw. Log
probabilities are those of the logits before all this. On a GPU nothing waits for the device: what comes out is tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from parrot_mq.errors import ParrotError
from parrot_mq.types import Sampling
from parrot_workers.engine.filters import draw, weigh
from parrot_workers.engine.logits_mask import LogitsMask
from parrot_workers.engine.penalties import TokenCounts, penalize
from parrot_workers.engine.sampled import Fault, LogprobTensors, Sampled
from parrot_workers.engine.sampling_check import check_token_ids
from parrot_workers.engine.sampling_rows import IntArray, SamplingRow, SamplingRows

__all__ = ["Sampler"]

_LEAST_LOGPROB = -9999.0  # instead of -inf, which JSON cannot say; vLLM does the same


class Sampler:
    """Chooses the next tokens of an engine's texts.

        row = sampler.open(sampling, seed=seed, prompt_ids=prompt_ids)     # once per text
        sampled = sampler.sample(logits, sampler.rows([row]), np.array([0]))
        sampler.close(row)

    Args:
        vocab_size: Length of a row of logits.
        eos_token_ids: Tokens by which the model ends a text.
        device: Where the logits are.
    """

    def __init__(self, *, vocab_size: int, eos_token_ids: Iterable[int], device: torch.device | str = "cpu") -> None:
        self._vocab_size = vocab_size
        self._eos_token_ids = frozenset(eos_token_ids)
        self._device = torch.device(device)
        self._counts = TokenCounts(vocab_size, self._device)
        self._bits = torch.arange(32, dtype=torch.int32, device=self._device)
        self._rows = SamplingRows([], vocab_size=vocab_size, device=self._device)

    def open(
        self,
        sampling: Sampling,
        *,
        seed: int = 0,
        prompt_ids: Sequence[int] = (),
        output_ids: Sequence[int] = (),
        mask: LogitsMask | None = None,
    ) -> SamplingRow:
        """Begin to sample a text.

        Args:
            sampling: How.
            seed: Keys its random numbers.
            prompt_ids: Its prompt; read for penalties only.
            output_ids: Tokens that it has already, from an earlier attempt or before it was preempted.
            mask: Its constraint, which has accepted `output_ids`.

        Raises:
            UnknownToken: It names a token that the model does not have.
        """
        check_token_ids(sampling, self._vocab_size)
        eos_token_ids = frozenset() if sampling.ignore_eos else self._eos_token_ids
        ending_ids = tuple(sorted(eos_token_ids.union(sampling.stop_token_ids)))
        slot = self._counts.add(prompt_ids, output_ids) if _has_penalties(sampling) else None
        return SamplingRow(sampling=sampling, seed=seed, ending_ids=ending_ids, mask=mask, slot=slot)

    def close(self, row: SamplingRow) -> None:
        """The text has ended, or is preempted: `open` it anew then."""
        if row.slot is not None:
            self._counts.remove(row.slot)

    def rows(self, rows: Sequence[SamplingRow]) -> SamplingRows:
        """The rows of a batch; the same object as last time if they are the same, so that its tensors are kept."""
        if len(rows) != len(self._rows) or any(a is not b for a, b in zip(rows, self._rows.rows, strict=True)):
            self._rows = SamplingRows(rows, vocab_size=self._vocab_size, device=self._device)
        return self._rows

    def sample(self, logits: torch.Tensor, rows: SamplingRows, positions: npt.ArrayLike) -> Sampled:
        """Choose the next token of each row.

        With temperature 0 (and with top-k 1) it is the likeliest token, and of equals the lowest id. A row whose logits
        are not numbers, or whose constraint allows nothing, has a fault; the others do not feel it.

        Args:
            logits: Shape [num_rows, vocab_size], any floating dtype; not changed.
            rows: Of these logits.
            positions: Index of the output token that each row gets, shape [num_rows].
        """
        where = np.asarray(positions, dtype=np.int64)
        best, token_ids = logits.max(dim=-1)
        faults = torch.where(best.isfinite(), Fault.NONE, Fault.NOT_NUMBERS).to(torch.int8)
        failures: dict[int, ParrotError] = {}
        adjusted = self.adjust(logits, rows, where, failures)
        if adjusted is not None:
            best, token_ids = adjusted.max(dim=-1)
            faults = torch.where((faults == Fault.NONE) & best.isneginf(), Fault.NONE_ALLOWED, faults)
        if rows.drawn:
            token_ids = _draw_rows(logits if adjusted is None else adjusted, token_ids, rows, where)
        if rows.penalized:
            self._counts.count(rows.penalties.slots, token_ids[rows.penalized_index])
        logprobs = _logprobs(logits, token_ids, rows) if rows.told else None
        return Sampled(rows, token_ids, faults, logprobs, failures)

    def adjust(
        self, logits: torch.Tensor, rows: SamplingRows, positions: IntArray, failures: dict[int, ParrotError]
    ) -> torch.Tensor | None:
        """Apply what changes logits. Returns: new logits, fp32; none where no row asks for a change."""
        suppressed = rows.suppressed(positions)
        if not (rows.penalized or rows.masked or rows.biases or suppressed):
            return None
        logits = logits.to(torch.float32, copy=True)
        if rows.penalized:
            logits[rows.penalized_index] = penalize(logits[rows.penalized_index], rows.penalties, self._counts)
        if rows.biases:
            logits[rows.biases.rows, rows.biases.token_ids] += rows.biases.values
        if suppressed:
            logits[suppressed] = float("-inf")
        if rows.masked:
            is_allowed = self._unpack(rows.mask_words(failures))
            logits[rows.masked_index] = logits[rows.masked_index].masked_fill(~is_allowed, float("-inf"))
        return logits

    def _unpack(self, words: torch.Tensor) -> torch.Tensor:
        """Bits of mask words, the lowest first, shape [num_masked, vocab_size], bool."""
        return ((words[:, :, None] >> self._bits) & 1).bool().flatten(1)[:, : self._vocab_size]


def _has_penalties(sampling: Sampling) -> bool:
    penalties = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty)
    return penalties != (1.0, 0.0, 0.0)


def _draw_rows(logits: torch.Tensor, token_ids: torch.Tensor, rows: SamplingRows, positions: IntArray) -> torch.Tensor:
    """Draw the tokens of rows that are not greedy. Returns: all rows' tokens."""
    is_all = len(rows.drawn) == len(rows)
    weights = weigh((logits if is_all else logits[rows.drawn_index]).float(), rows.filters)
    drawn = draw(weights, rows.uniforms(positions))
    return drawn if is_all else token_ids.index_copy(0, rows.drawn_index, drawn)


def _logprobs(logits: torch.Tensor, token_ids: torch.Tensor, rows: SamplingRows) -> LogprobTensors:
    """Log probabilities before anything changed the logits."""
    logprobs = logits[rows.told_index].float().log_softmax(dim=-1).clamp(min=_LEAST_LOGPROB)
    chosen = logprobs.gather(-1, token_ids[rows.told_index][:, None])[:, 0]
    best = logprobs.topk(rows.num_alternatives, dim=-1)
    return LogprobTensors(chosen, best.indices, best.values)
