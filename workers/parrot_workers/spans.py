"""One span for each generation: from its assignment to its end here.

Source: OpenTelemetry Semantic Conventions for generative AI, "Spans for generative AI": inference spans.
"""

from __future__ import annotations

from parrot_mq.messages import Generation
from parrot_mq.observability import Attributes, Span, TraceContext, is_recording, parse_trace, start_span
from parrot_workers.engine.base import Finished, Started

__all__ = ["Spans"]

OPERATION = "text_completion"


class Spans:
    """The spans of what runs on one worker; without OpenTelemetry, the contexts that the coordinator passed on.

    Unknown generations, and those that are in no trace, are ignored.
    """

    def __init__(self, worker: str, model: str) -> None:
        self._worker = worker
        self._model = model
        self._spans: dict[str, Span] = {}

    def begin(self, generation: Generation) -> None:
        """It was assigned."""
        parent = parse_trace(generation.trace, generation.trace_state)
        if parent is None and not is_recording():
            return
        span = start_span(f"{OPERATION} {self._model}", parent, kind="internal", attributes=self._describe(generation))
        if span.trace is not None:
            self._spans[generation.key] = span

    def of(self, generation: Generation) -> TraceContext | None:
        """Its tokens, its value or its error belong below this; None if it is in no trace."""
        span = self._spans.get(generation.key)
        return span.trace if span is not None else None

    def start(self, started: Started) -> None:
        """Its prompt has been read."""
        if (span := self._spans.get(started.key)) is not None:
            span.note(
                {
                    "gen_ai.usage.input_tokens": started.num_prompt_tokens,
                    "gen_ai.usage.cache_read.input_tokens": started.num_shared_tokens,
                }
            )

    def complete(self, finished: Finished) -> None:
        """Its text is complete."""
        if (span := self._spans.get(finished.key)) is not None:
            span.note(
                {
                    "gen_ai.usage.output_tokens": finished.num_output_tokens,
                    "gen_ai.response.finish_reasons": [finished.finish_reason],
                }
            )

    def fail(self, key: str, code: str) -> None:
        """It ends without a text here."""
        if (span := self._spans.get(key)) is not None:
            span.fail(code)

    def end(self, key: str) -> None:
        """It does not run here any more."""
        if (span := self._spans.pop(key, None)) is not None:
            span.end()

    def end_all(self) -> None:
        """Nothing runs here any more."""
        for key in list(self._spans):
            self.end(key)

    def _describe(self, generation: Generation) -> Attributes:
        sampling = generation.sampling
        described: dict[str, str | int | float] = {
            "gen_ai.operation.name": OPERATION,
            "gen_ai.provider.name": "parrot_mq",
            "gen_ai.request.model": self._model,
            "gen_ai.request.max_tokens": sampling.max_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "parrot_mq.tenant": generation.tenant,
            "parrot_mq.session": generation.session,
            "parrot_mq.task": generation.task,
            "parrot_mq.variable": generation.variable,
            "parrot_mq.worker": self._worker,
            "parrot_mq.attempt": generation.attempt,
            "parrot_mq.continued_tokens": len(generation.output_ids),
        }
        if sampling.seed is not None:
            described["gen_ai.request.seed"] = sampling.seed
        return described
