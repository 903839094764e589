"""Which session a call belongs to, when the call does not say."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

from parrot_mq.program.call import Call
from parrot_mq.program.variable import SemanticVariable

__all__ = ["Caller", "current_session"]


class Caller(Protocol):
    """Who takes calls: a session. The client's session implements it."""

    @property
    def tenant(self) -> str:
        """The tenant that the session belongs to."""

    @property
    def name(self) -> str:
        """The session's name."""

    def submit(self, call: Call) -> tuple[SemanticVariable, ...]:
        """Take a call, without waiting.

        Returns:
            The variables of its outputs, in the order of `call.spec.outputs`.
        """


current_session: ContextVar[Caller | None] = ContextVar("parrot_mq_current_session", default=None)
"""The session that is open here. A session sets it on entry and resets it on exit; tasks inherit it when they start."""
