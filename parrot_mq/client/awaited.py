"""Tells the coordinator what somebody waits for, where it cannot know by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

from parrot_mq.client.control import SessionControl
from parrot_mq.client.marks import KeptMarks
from parrot_mq.errors import ParrotError
from parrot_mq.types import Objective

__all__ = ["AwaitedVariables"]


class AwaitedVariables:
    """What is awaited without a mark is marked `latency`.

    The coordinator takes for granted that somebody waits for what nobody reads. So nothing is said of the result of a
    call that no other call reads; of anything else once, and all of one turn of the event loop in one message.
    """

    def __init__(
        self,
        control: SessionControl,
        kept: KeptMarks,
        *,
        session: str,
        is_set: Callable[[str], bool],
        is_active: bool,
    ) -> None:
        self._control = control
        self._kept = kept
        self._session = session
        self._is_set = is_set
        self._is_active = is_active
        self._written: set[str] = set()
        self._read: set[str] = set()
        self._awaited: set[str] = set()
        self._marked: set[str] = set()
        self._unsent: list[str] = []

    def start(self, group: asyncio.TaskGroup) -> None:
        """Send with tasks of `group` from now on."""
        self._group = group

    def submitted(self, *, writes: Iterable[str], reads: Iterable[str], marked: Iterable[str]) -> None:
        """A call was made.

        Args:
            writes: Its outputs.
            reads: What it reads, and those of its outputs that others of them go on from.
            marked: Outputs of which it says what is wanted.
        """
        self._written.update(writes)
        self._marked.update(marked)
        for name in reads:
            self._read.add(name)
            if name in self._awaited:
                self._consider(name)

    def awaited(self, name: str) -> None:
        """Somebody begins to wait for a variable."""
        if self._is_active:
            self._awaited.add(name)
            self._consider(name)

    def marked(self, names: Iterable[str]) -> None:
        """Somebody has said what is wanted of variables."""
        self._marked.update(names)

    def _consider(self, name: str) -> None:
        is_known_there = name in self._written and name not in self._read
        if name in self._marked or is_known_there or self._is_set(name):
            return
        self._marked.add(name)
        self._unsent.append(name)
        if len(self._unsent) == 1:
            self._group.create_task(self._send(), name=f"session-{self._session}:mark")

    async def _send(self) -> None:
        names, self._unsent = self._unsent, []
        self._kept.keep(names, Objective(), only_unmarked=True)
        with suppress(ParrotError):  # only speed depends on it
            await self._control.mark_awaited(names)
