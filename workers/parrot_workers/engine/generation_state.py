"""One request while it runs: tokens in, events out. Knows no model."""

from __future__ import annotations

from collections.abc import Callable

from parrot_workers.engine.base import Delta, EngineEvent, Finished, FinishReason, GenerationRequest, Started
from parrot_workers.engine.detokenizer import Detokenizer, StopMatcher

__all__ = ["GenerationState"]


class GenerationState:
    """The tokens of one request, and the text they have become.

    Args:
        request: What to generate.
        prompt_ids: Its prompt, tokenized; not empty.
        decode: Token ids to text.
        eos_token_ids: Tokens that end the output.
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
        self.num_shared_tokens = 0  # set by the engine when it starts the request
        self._eos_token_ids = eos_token_ids
        self._detokenizer = Detokenizer(decode, prompt_ids)
        self._stop = StopMatcher(request.sampling.stop)
        self._texts: list[str] = []
        self._num_chars = 0

    @property
    def last_token_id(self) -> int:
        return self.output_ids[-1] if self.output_ids else self.prompt_ids[-1]

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and output; the last one has not been through the model."""
        return len(self.prompt_ids) + len(self.output_ids)

    def append(self, token_id: int) -> list[EngineEvent]:
        """Take the next token. Returns: what there is to tell; `Finished` comes last."""
        events: list[EngineEvent] = []
        if not self.output_ids:
            events.append(Started(self.request.key, len(self.prompt_ids), self.num_shared_tokens))
        self.output_ids.append(token_id)
        text, finish_reason = self._read(token_id)
        if text:
            events.append(Delta(self.request.key, text, self._num_chars))
            self._texts.append(text)
            self._num_chars += len(text)
        if finish_reason:
            events.append(self._finished(finish_reason))
        return events

    def _read(self, token_id: int) -> tuple[str, FinishReason | None]:
        """New text that is certain, and what ended the output if anything did."""
        is_eos = token_id in self._eos_token_ids
        is_last = is_eos or len(self.output_ids) == self.request.sampling.max_tokens
        text = "" if is_eos else self._stop.push(self._detokenizer.push(token_id))
        if is_last and not self._stop.is_matched:
            text += self._stop.push(self._detokenizer.flush())
        if self._stop.is_matched:
            return text, "stop"
        if is_last:
            return text + self._stop.flush(), "eos" if is_eos else "length"
        return text, None

    def _finished(self, finish_reason: FinishReason) -> Finished:
        return Finished(
            key=self.request.key,
            text="".join(self._texts),
            finish_reason=finish_reason,
            num_prompt_tokens=len(self.prompt_ids),
            num_shared_tokens=self.num_shared_tokens,
            num_output_tokens=len(self.output_ids),
        )
