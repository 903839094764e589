"""A session that keeps what it is given; for tests of programs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from parrot_mq.program import Call, Mark, SemanticVariable, current_session
from parrot_mq.program.transforms import encode_list
from parrot_mq.types import TextPiece


class RecordingSession:
    """Takes calls and holds texts in memory. A `Caller` and a `VariableStore`."""

    def __init__(self, name: str = "demo", tenant: str = "default") -> None:
        self.name = name
        self.tenant = tenant
        self.calls: list[Call] = []
        self.texts: dict[str, str] = {}
        self.cancelled: list[str] = []
        self.marks: dict[str, Mark] = {}
        self.timeouts_s: list[float | None] = []

    def submit(self, call: Call) -> tuple[SemanticVariable, ...]:
        self.calls.append(call)
        variables = (SemanticVariable(self, call.names.get(output, output)) for output in call.spec.outputs)
        return tuple(
            variable.as_list() if call.makes_list(output) else variable
            for variable, output in zip(variables, call.spec.outputs, strict=True)
        )

    async def get(self, variable_id: str, timeout_s: float | None = None) -> str:
        self.timeouts_s.append(timeout_s)
        return self.texts[variable_id]

    async def stream(self, variable_id: str, timeout_s: float | None = None) -> AsyncIterator[TextPiece]:
        self.timeouts_s.append(timeout_s)
        for word in self.texts[variable_id].split():
            yield TextPiece(word)

    async def set(self, variable_id: str, value: str | Sequence[str]) -> None:
        self.texts[variable_id] = value if isinstance(value, str) else encode_list(value)

    async def mark(self, variables: str, objective: Mark) -> None:
        self.marks[variables] = objective

    async def cancel(self, variable_id: str) -> None:
        self.cancelled.append(variable_id)

    @contextmanager
    def open(self) -> Iterator[RecordingSession]:
        """Be the current session."""
        token = current_session.set(self)
        try:
            yield self
        finally:
            current_session.reset(token)
