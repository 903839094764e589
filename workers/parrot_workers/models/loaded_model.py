"""A model that is ready to run, with its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parrot_mq.errors import EngineFailure
from parrot_workers.models.paged import LayerSpec

if TYPE_CHECKING:
    import torch

    from parrot_workers.models.short_pass import ShortPass

__all__ = ["LoadedModel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model ready to run, and its tokenizer.

    Attributes:
        model: A `transformers` causal language model in eval mode.
        tokenizer: Its `transformers` tokenizer.
        name: Name of the checkpoint's folder.
        eos_token_ids: Tokens that end an output.
        max_context_tokens: Most tokens of prompt and output together.
        vocab_size: Token ids are below this.
        layers: Attention of each layer.
        num_parameters: Weights of the checkpoint, tied ones once.
        short_pass: Gives the logits that `model` gives, in less time; none if there is none.
    """

    model: Any
    tokenizer: Any
    name: str
    eos_token_ids: frozenset[int]
    max_context_tokens: int
    vocab_size: int
    layers: tuple[LayerSpec, ...]
    num_parameters: int
    short_pass: ShortPass | None = None

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights, keys and values."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    def limit_context(self, wanted: int) -> int:
        """Most tokens of prompt and output together if `wanted` are asked for; 0 asks for all that the model can."""
        return min(wanted or self.max_context_tokens, self.max_context_tokens)

    def encode(self, text: str) -> list[int]:
        """Tokenize a whole prompt exactly as `tokenizer(text)` does. An empty prompt is the token that begins a text.

        Raises:
            EngineFailure: There is no token to begin with, or one that the model does not know.
        """
        return self._begin(self.tokenizer(text, verbose=False)["input_ids"])

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        """Tokenize as `encode` does, and tell where in the text each token is.

        Returns:
            The tokens, and for each the characters that it has a part in, as (begin, end); none if the tokenizer cannot
            tell. Both ends only grow; a token that the tokenizer adds by itself has no characters.

        Raises:
            EngineFailure: As `encode`.
        """
        if not self.tokenizer.is_fast:
            return self.encode(text), None
        encoded = self.tokenizer(text, return_offsets_mapping=True, verbose=False)
        token_ids = self._begin(encoded["input_ids"])
        return token_ids, _growing(encoded["offset_mapping"] or [(0, 0)])

    def check_ids(self, token_ids: Sequence[int]) -> None:
        """Refuse tokens that the model does not have.

        Raises:
            EngineFailure: Names one.
        """
        low, high = min(token_ids, default=0), max(token_ids, default=0)
        if low < 0 or high >= self.vocab_size:
            wrong = low if low < 0 else high
            raise EngineFailure(cause=f"token {wrong} is beyond the model's vocabulary of {self.vocab_size}")

    def _begin(self, token_ids: list[int]) -> list[int]:
        """The tokens, or if there are none the one that begins a text."""
        if not token_ids:
            if self.tokenizer.bos_token_id is None:
                raise EngineFailure(cause="the prompt is empty, and the model has no token to begin with")
            return [self.tokenizer.bos_token_id]
        self.check_ids(token_ids)
        return token_ids

    def decode(self, token_ids: list[int]) -> str:
        """Text of tokens; special ones have none."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def _growing(offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Tokens that a tokenizer adds say (0, 0) wherever they are; put them where they stand."""
    grown, begin, end = [], 0, 0
    for offset in offsets:
        begin, end = max(begin, offset[0] if offset[1] else end), max(end, offset[1])
        grown.append((begin, end))
    return grown
