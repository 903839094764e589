"""The mailbox against lists, under any order of puts, takes and cancellations."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from parrot_mq.actors import Mailbox
from parrot_mq.errors import MailboxFull
from tests.actors.helpers import settle


def _make_mailbox(capacity: int) -> Mailbox[int]:
    return Mailbox(capacity, address="node/actor")


class MailboxMachine(RuleBasedStateMachine):
    """Any order of puts, takes and cancellations, with or without turns of the loop between, against lists.

    A sender is in one of three places: `waiting` for a slot, `granted` one that it has not used, or done, with its
    message in `items`. A turn of the loop moves the granted into `items`.
    """

    CAPACITY = 2

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.mailbox = _make_mailbox(self.CAPACITY)
        self.items: deque[int] = deque()
        self.granted: list[int] = []
        self.waiting: deque[int] = deque()
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.reader: asyncio.Task[int] | None = None
        self.number = 0
        self.num_given_back = 0  # slots of senders that were cancelled before they used them

    @property
    def is_full(self) -> bool:
        return len(self.items) + len(self.granted) >= self.CAPACITY

    @rule()
    def put_nowait(self) -> None:
        self.number += 1
        if self.is_full:
            with pytest.raises(MailboxFull):
                self.loop.run_until_complete(self._put_nowait(self.number))
        else:
            self.loop.run_until_complete(self._put_nowait(self.number))
            self.items.append(self.number)

    async def _put_nowait(self, item: int) -> None:
        self.mailbox.put_nowait(item)

    @rule(num=st.integers(1, 4))
    def begin_puts(self, num: int) -> None:
        for _ in range(num):
            self._begin_put()
            self._collect()

    def _begin_put(self) -> None:
        self.number += 1
        self.tasks[self.number] = self.loop.create_task(self.mailbox.put(self.number))
        self._turn()
        if self.tasks[self.number].done():
            assert not self.is_full
            self.items.append(self.number)
        else:
            assert self.is_full
            self.waiting.append(self.number)

    @precondition(lambda self: self.reader is None)
    @rule(acts=st.lists(st.one_of(st.just("take"), st.integers(0, 3)), min_size=1, max_size=6))
    def take_and_cancel_within_a_turn(self, acts: list[str | int]) -> None:
        """Slots are granted and senders (by their place) cancelled in any order, before any sender runs."""
        self._turn()
        for act in acts:
            alive = [*self.granted, *self.waiting]
            if act == "take":
                self._take()
            elif isinstance(act, int) and act < len(alive):
                self._cancel(alive[act])
        self._turn()

    def _take(self) -> None:
        if self.items:
            assert self.mailbox.get_nowait() == self.items.popleft()
            self._grant()
        else:
            with pytest.raises(IndexError):
                self.mailbox.get_nowait()

    def _grant(self) -> None:
        if self.waiting:
            self.granted.append(self.waiting.popleft())

    def _cancel(self, number: int) -> None:
        """One that was granted a slot gives it back when it runs; `_turn` passes it on."""
        self.tasks[number].cancel()
        if number in self.granted:
            self.granted.remove(number)
            self.num_given_back += 1
        else:
            self.waiting.remove(number)

    @precondition(lambda self: self.reader is None)
    @rule()
    def begin_get(self) -> None:
        self.reader = self.loop.create_task(self.mailbox.get())
        self._turn()
        self._collect()

    @precondition(lambda self: self.reader is not None)
    @rule()
    def cancel_get(self) -> None:
        assert self.reader is not None
        self.reader.cancel()
        self._turn()
        assert self.reader.cancelled()
        self.reader = None

    def _collect(self) -> None:
        """A reader that waits takes the first message as soon as there is one."""
        if self.reader is not None and self.items:
            assert self.reader.done()
            assert self.reader.result() == self.items.popleft()
            self.reader = None
            self._grant()
            self._turn()

    def _turn(self) -> None:
        self.loop.run_until_complete(settle(4))
        for _ in range(self.num_given_back):
            self._grant()
        self.num_given_back = 0
        self.items.extend(self.granted)
        self.granted.clear()

    @invariant()
    def agrees_with_the_model(self) -> None:
        self._turn()
        self._collect()
        self.mailbox.check_integrity()
        statistics = self.mailbox.statistics()
        assert (statistics.depth, statistics.num_waiting) == (len(self.items), len(self.waiting))
        assert not any(self.tasks[number].done() for number in self.waiting)

    def teardown(self) -> None:
        try:
            self._drain()
        finally:
            self.loop.close()

    def _drain(self) -> None:
        """What is left comes out in the order of the model, and then nothing waits."""
        if self.reader is not None:
            self.reader.cancel()
            self._turn()
        while self.items:
            assert self.mailbox.get_nowait() == self.items.popleft()
            self._grant()
            self._turn()
        assert all(task.done() for task in self.tasks.values())


TestMailboxMachine = MailboxMachine.TestCase


TestMailboxMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
