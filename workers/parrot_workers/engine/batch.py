"""A group of requests that run together over one cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from parrot_workers.engine.generation_state import GenerationState
from parrot_workers.models.loader import LoadedModel

__all__ = ["RunningBatch"]


class RunningBatch:
    """The common prefix is computed once, then repeated for each row; the rows go on in one left-padded batch.

    The cache of a row, and its attention mask below it, `p` the prefix length:

        | prefix   | padding    | rest of the prompt, then output |
        | 1 ... 1  | 0 ... 0    | 1 ... 1                         |
        0          p       p + padding

    Positions are counted without the padding. A sliding window counts cache places and would count the padding too, so
    models that have one run with p = 0 only: then the padding stands before everything, outside of each window.

    Args:
        model: What to run.
        states: The rows; none has output yet.
        prefix_length: Tokens that all prompts begin with; shorter than each of them.
        max_prefill_tokens: Tokens of all rows together that go through the model at once. Longer prompts take several
            passes: the attention mask of a pass takes this many times the context in memory.
    """

    def __init__(
        self,
        model: LoadedModel,
        states: Sequence[GenerationState],
        prefix_length: int,
        *,
        max_prefill_tokens: int = 4096,
    ) -> None:
        assert not (prefix_length and model.has_sliding_window)
        self.states = list(states)
        self._model = model
        self._prefix_length = prefix_length
        self._max_prefill_tokens = max_prefill_tokens
        self._cache: Any = None  # a DynamicCache once the prompts have been read
        self._mask = torch.empty(0)  # [num_rows, num_cached], int64

    def forward(self) -> torch.Tensor:
        """Run the model over what it has not seen of each row: at first the prompts, then the last tokens.

        Returns:
            Logits of each row's next token, shape [num_rows, vocab_size], the model's dtype and device.
        """
        if self._cache is None:
            return self._prefill()
        positions = torch.tensor([[state.num_tokens - 1] for state in self.states], device=self._model.device)
        input_ids = torch.tensor([[state.last_token_id] for state in self.states], device=self._model.device)
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        return self._run(input_ids, positions)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows, with their cache."""
        if len(rows) == len(self.states):
            return
        self.states = [self.states[row] for row in rows]
        if not rows:
            self._cache = None
        elif self._cache is not None:
            indices = torch.tensor(rows, device=self._model.device)
            self._cache.batch_select_indices(indices)
            self._mask = self._mask[indices]

    def _prefill(self) -> torch.Tensor:
        self._cache = self._model.make_cache()
        begin, device = self._prefix_length, self._model.device
        if begin:
            prefix = torch.tensor([self.states[0].prompt_ids[:begin]], device=device)
            self._mask = torch.ones_like(prefix)
            self._run(prefix, torch.arange(begin, device=device)[None])
            self._cache.batch_repeat_interleave(len(self.states))
        rests = [state.prompt_ids[begin:] for state in self.states]
        width = max(map(len, rests))
        input_ids = torch.zeros(len(rests), width, dtype=torch.int64)
        positions, mask = torch.zeros_like(input_ids), torch.zeros_like(input_ids)
        for row, rest in enumerate(rests):
            pad = width - len(rest)
            input_ids[row, pad:] = torch.tensor(rest)
            positions[row, pad:] = torch.arange(begin, begin + len(rest))
            mask[row, pad:] = 1
        self._mask = torch.cat([torch.ones(len(rests), begin, dtype=torch.int64), mask], dim=1).to(device)
        return self._run(input_ids.to(device), positions.to(device))

    def _run(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Put new tokens through the model, in passes. Both: shape [num_rows, num_new], int64; the mask covers them.

        Returns:
            Logits of each row's last place, shape [num_rows, vocab_size].
        """
        num_rows, num_new = input_ids.shape
        num_cached = self._mask.shape[1] - num_new
        width = max(1, self._max_prefill_tokens // num_rows)
        for begin in range(0, num_new, width):
            end = min(begin + width, num_new)
            with torch.inference_mode():
                output = self._model.model(
                    input_ids=input_ids[:, begin:end],
                    position_ids=positions[:, begin:end],
                    attention_mask=self._mask[:, : num_cached + end],
                    past_key_values=self._cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
        logits: torch.Tensor = output.logits[:, -1]
        return logits
