"""What the sampler gives: tokens on the device, and how the host comes to read them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

import torch

from parrot_mq.errors import EngineFailure, NoTokenAllowed, ParrotError
from parrot_mq.types import TokenLogprob
from parrot_workers.engine.sampling_rows import SamplingRows

__all__ = ["Fault", "LogprobTensors", "Sampled", "SampledToken"]


class Fault(IntEnum):
    """Why a row has no token."""

    NONE = 0
    """It has one."""
    NOT_NUMBERS = 1
    """The model gave logits that are not numbers."""
    NONE_ALLOWED = 2
    """Its constraint, with `min_tokens`, allows no token."""


class LogprobTensors(NamedTuple):
    """Log probabilities of the rows that tell them, on the device of the logits.

    Attributes:
        chosen: Of the token that was chosen, shape [num_told], fp32.
        alternative_ids: The likeliest tokens in falling order, shape [num_told, num_alternatives], int64.
        alternatives: Their log probabilities, same shape, fp32.
    """

    chosen: torch.Tensor
    alternative_ids: torch.Tensor
    alternatives: torch.Tensor

    def to_host(self) -> LogprobTensors:
        return LogprobTensors(*(each.to("cpu", non_blocking=True) for each in self))


class SampledToken(NamedTuple):
    """The next token of one row.

    Attributes:
        token_id: Means nothing if there is an error.
        error: Why there is no token.
        logprob: If the row tells it.
    """

    token_id: int
    error: ParrotError | None = None
    logprob: TokenLogprob | None = None


class Sampled(NamedTuple):
    """The next token of each row, on the device of the logits.

    Attributes:
        rows: The rows.
        token_ids: Shape [num_rows], int64; below the size of the vocabulary even where there is a fault.
        faults: `Fault` of each row, shape [num_rows], int8.
        logprobs: If any row tells them.
        failures: Rows whose constraint raised, with what it raised.
        copied: Recorded after the copies of `to_host`.
    """

    rows: SamplingRows
    token_ids: torch.Tensor
    faults: torch.Tensor
    logprobs: LogprobTensors | None = None
    failures: Mapping[int, ParrotError] = MappingProxyType({})
    copied: torch.cuda.Event | None = None

    @property
    def is_valid(self) -> torch.Tensor:
        """Whether each row has a token, shape [num_rows], bool."""
        return self.faults == Fault.NONE

    def to_host(self) -> Sampled:
        """Begin to copy to the host; `read` of the copy waits for its end, and not for what is launched after."""
        token_ids, faults = (each.to("cpu", non_blocking=True) for each in (self.token_ids, self.faults))
        logprobs = self.logprobs and self.logprobs.to_host()
        return Sampled(self.rows, token_ids, faults, logprobs, self.failures, _record_event(self.token_ids.device))

    def read(self) -> list[SampledToken]:
        """What each row got."""
        if self.copied is not None:
            self.copied.synchronize()
        tokens = [SampledToken(token_id) for token_id in self.token_ids.tolist()]
        for row, fault in enumerate(self.faults.tolist()):
            if fault:
                error = self.failures.get(row) or _as_error(Fault(fault))
                tokens[row] = tokens[row]._replace(error=error)
        if self.logprobs is not None:
            self._add_logprobs(tokens, self.logprobs)
        return tokens

    def _add_logprobs(self, tokens: list[SampledToken], logprobs: LogprobTensors) -> None:
        lists = (each.tolist() for each in logprobs)
        for row, chosen, ids, values in zip(self.rows.told, *lists, strict=True):
            num_told = self.rows.rows[row].sampling.logprobs
            alternatives = tuple(zip(ids[:num_told], values[:num_told], strict=True))
            tokens[row] = tokens[row]._replace(logprob=TokenLogprob(tokens[row].token_id, chosen, alternatives))


def _record_event(device: torch.device) -> torch.cuda.Event | None:
    """An event after all that was launched so far; a CPU has done it already."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event


def _as_error(fault: Fault) -> ParrotError:
    if fault is Fault.NONE_ALLOWED:
        return NoTokenAllowed("the constraint on the output allows no token here, and the output may not end yet")
    return EngineFailure(cause="the model gave logits that are not numbers")
