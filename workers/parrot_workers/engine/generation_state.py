"""One request while it runs: tokens in, events out. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from parrot_mq.types import TokenLogprob
from parrot_workers.engine.base import Delta, EngineEvent, Finished, FinishReason, GenerationRequest, Started
from parrot_workers.engine.detokenizer import Detokenizer, StopMatcher

__all__ = ["GenerationState"]


class GenerationState:
    """The tokens of one request, and the text they have become.

    It may begin with tokens of an earlier attempt. Their text is not told again: the deltas go on behind it. If they
    are a whole output already, `is_finished` is true, and `finish` tells it.

    Args:
        request: What to generate.
        prompt_ids: Its prompt, tokenized; not empty.
        decode: Token ids to text.
        eos_token_ids: Tokens by which the model ends a text.
    """

    def __init__(
        self,
        request: GenerationRequest,
        prompt_ids: list[int],
        *,
        decode: Callable[[list[int]], str],
        eos_token_ids: frozenset[int],
    ) -> None:
        self.request = request
        self.prompt_ids = prompt_ids
        self.output_ids: list[int] = []
        # Set by the engine before the first token.
        self.num_shared_tokens = 0
        self.num_prefilled_tokens = 0
        self.has_started = False
        self.finish_reason: FinishReason | None = None
        self._eos_token_ids = frozenset() if request.sampling.ignore_eos else eos_token_ids
        self._stop_token_ids = frozenset(request.sampling.stop_token_ids)
        self._detokenizer = Detokenizer(decode, prompt_ids)
        self._stop = StopMatcher(request.sampling.stop)
        self._text = ""
        self._logprobs: list[TokenLogprob] = []
        self._num_told_logprobs = 0
        self._replay(request.output_ids)
        self._num_told = len(self._text)
        self._num_told_ids = len(self.output_ids)

    @property
    def is_finished(self) -> bool:
        """Whether the output is complete."""
        return self.finish_reason is not None

    @property
    def num_output_tokens(self) -> int:
        return len(self.output_ids)

    @property
    def needs_known_tokens(self) -> bool:
        """Whether a constraint has to be told the last token before the next can be sampled."""
        return self.request.mask is not None

    def append(self, token_id: int, logprob: TokenLogprob | None = None) -> list[EngineEvent]:
        """Take the next token. Returns: what there is to tell; `Finished` comes last."""
        self._take(token_id)
        if logprob is not None:
            self._logprobs.append(logprob)
        return self._tell()

    def finish(self) -> list[EngineEvent]:
        """Tell an output that was complete from the beginning."""
        return self._tell()

    def _replay(self, token_ids: Sequence[int]) -> None:
        """Take the tokens of an earlier attempt, up to the one that ends the output."""
        for token_id in token_ids:
            if not self.is_finished:
                self._take(token_id)

    def _take(self, token_id: int) -> None:
        """Turn a token into text that is certain, and see whether it ends the output."""
        self.output_ids.append(token_id)
        ending = self._ending(token_id)
        if ending is None:
            self._follow(token_id)
            self._read(self._detokenizer.push(token_id))
        if self.finish_reason is None and (ending or self.num_output_tokens == self.request.sampling.max_tokens):
            self.finish_reason = ending or "length"
        if self.finish_reason is not None and not self._stop.is_matched:
            self._read(self._detokenizer.flush())
            self._text += self._stop.flush()

    def _ending(self, token_id: int) -> FinishReason | None:
        """What a token that ends the output, and has no text, ends it with."""
        if token_id in self._eos_token_ids:
            return "eos"
        return "stop" if token_id in self._stop_token_ids else None

    def _follow(self, token_id: int) -> None:
        """Let the constraint know of a token."""
        mask = self.request.mask
        if mask is not None:
            mask.accept(token_id)
            if mask.is_finished:
                self.finish_reason = "stop"

    def _read(self, text: str) -> None:
        """Add text, up to a stop string."""
        is_early = self.num_output_tokens <= self.request.sampling.min_tokens
        self._text += self._stop.push(text, is_early=is_early)
        if self._stop.is_matched:
            self.finish_reason = "stop"

    # -- events ------------------------------------------------------------------------------------------------------

    def _tell(self) -> list[EngineEvent]:
        """What is new since the last time."""
        events: list[EngineEvent] = []
        if not self.has_started:
            self.has_started = True
            events.append(self._started())
        if len(self._text) > self._num_told:
            events.append(self._delta())
        if self.finish_reason is not None:
            events.append(self._finished(self.finish_reason))
        return events

    def _started(self) -> Started:
        return Started(
            self.request.key,
            len(self.prompt_ids),
            self.num_shared_tokens,
            self.num_prefilled_tokens,
            self._text[: self._num_told],
        )

    def _delta(self) -> Delta:
        delta = Delta(
            self.request.key,
            self._text[self._num_told :],
            self._num_told,
            tuple(self._logprobs[self._num_told_logprobs :]),
            tuple(self.output_ids[self._num_told_ids :]),
        )
        self._num_told, self._num_told_logprobs = len(self._text), len(self._logprobs)
        self._num_told_ids = len(self.output_ids)
        return delta

    def _finished(self, finish_reason: FinishReason) -> Finished:
        return Finished(
            key=self.request.key,
            text=self._text,
            finish_reason=finish_reason,
            num_prompt_tokens=len(self.prompt_ids),
            num_shared_tokens=self.num_shared_tokens,
            num_prefilled_tokens=self.num_prefilled_tokens,
            num_output_tokens=self.num_output_tokens,
            output_ids=tuple(self.output_ids),
            logprobs=tuple(self._logprobs),
        )
