"""A request inside the engine: its tokens, and how far they have been through the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from parrot_workers.engine.base import GenerationRequest
from parrot_workers.engine.generation_state import GenerationState
from parrot_workers.kv_cache import SequenceCache

if TYPE_CHECKING:  # the batcher, which imports this, needs no torch
    from parrot_workers.engine.sampling_rows import SamplingRow

__all__ = ["Sequence"]


class Sequence:
    """One request, from its submission to its end. Knows no model and no tensor.

    The tokens, `c` the `num_computed`, `n` the `len(token_ids)`:

        | computed, in the cache | to compute | sampled, not read yet |
        0                        c            n                       n + num_pending

    A sequence is *reading* (prefill) while more than its last token is to be computed, then *writing* (decode).

    Attributes:
        state: Its request, and the text it has become.
        order: Number of its submission; who comes first is served first.
        token_ids: Prompt and output, as far as they are known here.
        cache: Its pages; none while it waits.
        num_computed: Leading tokens whose keys and values are computed, or will be by steps that have been launched.
        num_pending: Tokens that were sampled but not read from the device yet: 0 or 1.
        slot: Its place among the running ones; -1 while it waits.
        last_step: The step it was last part of; who waited longest goes first when not all fit.
        prefixes: Names of leading parts of the prompt, and their numbers of tokens.
        sampling_row: What the sampler keeps of it; set by the runner.
        num_own_prompt_tokens: Tokens of the prompt that went through the model for this sequence.
    """

    __slots__ = (
        "cache",
        "last_step",
        "num_computed",
        "num_own_prompt_tokens",
        "num_pending",
        "order",
        "prefixes",
        "sampling_row",
        "slot",
        "state",
        "token_ids",
    )

    def __init__(self, state: GenerationState, order: int, prefixes: Iterable[tuple[str, int]] = ()) -> None:
        self.state = state
        self.order = order
        self.prefixes = prefixes
        self.sampling_row: SamplingRow | None = None
        self.num_own_prompt_tokens = 0
        self.token_ids = [*state.prompt_ids, *state.output_ids]
        self.cache: SequenceCache | None = None
        self.num_computed = 0
        self.num_pending = 0
        self.slot = -1
        self.last_step = -1

    @property
    def request(self) -> GenerationRequest:
        return self.state.request

    @property
    def key(self) -> str:
        return self.request.key

    @property
    def num_tokens(self) -> int:
        """All tokens, those counted that are not read yet."""
        return len(self.token_ids) + self.num_pending

    @property
    def num_output_tokens(self) -> int:
        """Tokens of the output, those counted that are not read yet."""
        return len(self.state.output_ids) + self.num_pending

    @property
    def num_missing(self) -> int:
        """Tokens that have to go through the model before the next one can be sampled."""
        return self.num_tokens - self.num_computed

    @property
    def is_writing(self) -> bool:
        return self.num_missing == 1

    @property
    def is_latency(self) -> bool:
        """True if somebody reads along."""
        return self.request.tpot_target_s is not None

    @property
    def has_all_tokens(self) -> bool:
        """True if what is pending may be its last token: nothing more is to be sampled."""
        return self.num_output_tokens >= self.request.sampling.max_tokens

    @property
    def needs_known_tokens(self) -> bool:
        """True if the next token depends on the last one by more than the model: it has to be read first."""
        return self.state.needs_known_tokens
