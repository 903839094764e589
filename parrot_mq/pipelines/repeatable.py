"""Calls that mean the same when a program runs again: same tasks, same variables."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from parrot_mq.client import Session
from parrot_mq.program import Call, SemanticVariable, current_session
from parrot_mq.types import ids_from

__all__ = ["RepeatableCalls", "session_name", "short_digest"]

_MAX_PART = 24
"""So there is room for the endings of names of items, and of items of items."""


class RepeatableCalls:
    """Takes calls for a session, and names their tasks and outputs by function and number.

    So the second run of a program meets what the first one has stored: a variable is set once, and a task whose outputs
    are set is not run. Each function has numbers of its own, so calls of different functions may come in any order.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._num_calls = Counter[str]()

    @property
    def tenant(self) -> str:
        """The tenant of the session."""
        return self._session.tenant

    @property
    def name(self) -> str:
        """The name of the session."""
        return self._session.name

    def submit(self, call: Call) -> tuple[SemanticVariable, ...]:
        """Take a call; raises as `Session.submit`."""
        self._num_calls[call.name] += 1
        number = self._num_calls[call.name]
        stem = f"{_shorten(call.name)}-{number}"
        names = {output: call.names.get(output) or f"{stem}-{_shorten(output)}" for output in call.spec.outputs}
        digest = hashlib.sha256(f"{call.name}-{number}".encode()).hexdigest()
        with ids_from(lambda num_bytes: digest[: 2 * num_bytes]):
            return self._session.submit(dataclasses.replace(call, names=names))

    @contextmanager
    def as_current(self) -> Iterator[None]:
        """Within the block, semantic functions call here."""
        token = current_session.set(self)
        try:
            yield
        finally:
            current_session.reset(token)


def short_digest(text: str) -> str:
    """What stands for a text in a name; 128 bits."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def session_name(pipeline: str, event_id: str) -> str:
    """The session of an event: the same whenever it comes."""
    return f"{pipeline}-{short_digest(event_id)}"


def _shorten(name: str) -> str:
    return name if len(name) <= _MAX_PART else f"{name[: _MAX_PART - 9]}-{short_digest(name)[:8]}"
