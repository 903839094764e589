"""Who gets the next free slot."""

from __future__ import annotations

from collections import OrderedDict

from parrot_workers.engine.base import Failed
from parrot_workers.engine.sequence import Sequence
from parrot_workers.engine.waiting import WaitingQueue

__all__ = ["AdmissionQueue"]

_LATENCY_TURNS = 3  # of those that somebody reads along, before one that nobody does: so neither kind starves


class AdmissionQueue:
    """Three lanes, each first in, first out: preempted sequences, then those somebody reads along, then the others."""

    def __init__(self) -> None:
        self._preempted: OrderedDict[str, Sequence] = OrderedDict()
        self._latency = WaitingQueue()
        self._throughput = WaitingQueue()
        self._num_latency_turns = 0

    def __len__(self) -> int:
        return len(self._preempted) + len(self._latency) + len(self._throughput)

    def push(self, sequence: Sequence, *, now: float) -> None:
        """Put a new sequence at the end of its lane."""
        (self._latency if sequence.is_latency else self._throughput).push(sequence, now=now)

    def push_preempted(self, sequence: Sequence) -> None:
        """Put back one that ran already: its deadline, which is one for starting, has been kept."""
        entries = sorted([*self._preempted.values(), sequence], key=lambda each: each.order)
        self._preempted = OrderedDict((each.key, each) for each in entries)

    def remove(self, key: str) -> bool:
        """Take out one key. Returns: whether it was here."""
        is_preempted = self._preempted.pop(key, None) is not None
        return is_preempted or self._latency.remove(key) or self._throughput.remove(key)

    def peek(self) -> Sequence | None:
        """Who is next."""
        return next(iter(self._preempted.values())) if self._preempted else self._lane().peek()

    def pop(self) -> Sequence:
        """Take out who is next."""
        if self._preempted:
            return self._preempted.popitem(last=False)[1]
        lane = self._lane()
        self._num_latency_turns = self._num_latency_turns + 1 if lane is self._latency else 0
        return lane.pop()

    def expire(self, *, now: float) -> list[Failed]:
        """Take out what can no longer be started in time."""
        return self._latency.expire(now=now) + self._throughput.expire(now=now)

    def _lane(self) -> WaitingQueue:
        if not self._latency or (self._throughput and self._num_latency_turns >= _LATENCY_TURNS):
            return self._throughput
        return self._latency
