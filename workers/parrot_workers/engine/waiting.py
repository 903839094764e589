"""Requests that wait for a slot: in order, removable, and given up when their deadline passes."""

from __future__ import annotations

from collections import OrderedDict

from parrot_mq.errors import DeadlineExceeded
from parrot_workers.engine.base import Failed, GenerationRequest
from parrot_workers.engine.sequence import Sequence

__all__ = ["WaitingQueue"]


class WaitingQueue:
    """First in, first out. Every operation takes constant time, but for `expire` when a deadline has passed."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, tuple[Sequence, float]] = OrderedDict()  # key -> entry, when it came
        # NOTE: never later than the earliest deadline; so most calls of `expire` compare two numbers.
        self._next_deadline = float("inf")

    def __len__(self) -> int:
        return len(self._entries)

    def push(self, entry: Sequence, *, now: float) -> None:
        """Put `entry` at the end."""
        self._entries[entry.request.key] = (entry, now)
        self._next_deadline = min(self._next_deadline, entry.request.deadline)

    def remove(self, key: str) -> bool:
        """Take out one key. Returns: whether it was here."""
        return self._entries.pop(key, None) is not None

    def expire(self, *, now: float) -> list[Failed]:
        """Take out what can no longer be started in time."""
        if now <= self._next_deadline:
            return []
        late = [(entry.request, came) for entry, came in self._entries.values() if entry.request.deadline < now]
        for request, _ in late:
            del self._entries[request.key]
        self._next_deadline = min((e.request.deadline for e, _ in self._entries.values()), default=float("inf"))
        return [Failed(request.key, _too_late(request, came)) for request, came in late]

    def peek(self) -> Sequence | None:
        """The first entry, which stays."""
        return next(iter(self._entries.values()))[0] if self._entries else None

    def pop(self) -> Sequence:
        """Take out the first entry."""
        return self._entries.popitem(last=False)[1][0]


def _too_late(request: GenerationRequest, came: float) -> DeadlineExceeded:
    return DeadlineExceeded(what=f"the start of {request.key!r}", timeout_s=max(0.0, request.deadline - came))
