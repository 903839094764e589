"""Tells each coordinator that starts what was said of variables that are not set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from parrot_mq.bus import Bus, Delivery
from parrot_mq.client.control import SessionControl
from parrot_mq.errors import ParrotError
from parrot_mq.messages import COORDINATOR_STARTED
from parrot_mq.observability import get_logger
from parrot_mq.types import Objective

__all__ = ["KeptMarks"]

MAX_KEPT = 10_000
"""The oldest marks beyond this are not told again."""

log = get_logger(__name__)


class _Mark(NamedTuple):
    objective: Objective
    only_unmarked: bool


class KeptMarks:
    """Marks that were sent by themselves and not with a task.

    Tasks are facts, and what they say lasts; a mark is known only to the coordinator that got it. So each one that
    starts is told again what is still of use. A program that marks nothing costs nothing: it does not even listen.

    Args:
        is_set: Whether a variable is known to be set; then its mark is of no use any more.
    """

    def __init__(self, bus: Bus, control: SessionControl, *, session: str, is_set: Callable[[str], bool]) -> None:
        self._bus = bus
        self._control = control
        self._session = session
        self._is_set = is_set
        self._marks: dict[str, _Mark] = {}
        self._must_tell = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Tell with tasks of `group` from now on."""
        self._group = group

    def stop(self) -> None:
        """Tell nothing more."""
        if self._task is not None:
            self._task.cancel()

    def keep(self, names: Iterable[str], objective: Objective, *, only_unmarked: bool = False) -> None:
        """Remember what was said of variables; it replaces what was said before, unless that is to have precedence."""
        for name in names:
            if only_unmarked and name in self._marks:
                continue
            self._marks.pop(name, None)  # it becomes the newest
            self._marks[name] = _Mark(objective, only_unmarked)
            if len(self._marks) > MAX_KEPT:
                del self._marks[next(iter(self._marks))]
        if self._task is None:
            self._task = self._group.create_task(self._tell_whoever_starts(), name=f"session-{self._session}:marks")

    async def _tell_whoever_starts(self) -> None:
        remove_listener = self._bus.add_reconnect_listener(self._must_tell.set)  # one may have started meanwhile
        try:
            subscription = await self._bus.subscribe(COORDINATOR_STARTED, self._on_started)
        except ParrotError as error:  # not allowed to every user; then marks last as long as a coordinator
            log.debug("marks_not_kept", session=self._session, reason=error.message)
            remove_listener()
            return
        try:
            while True:
                await self._must_tell.wait()
                self._must_tell.clear()
                with suppress(ParrotError):  # only speed depends on it
                    await self._tell()
        finally:
            remove_listener()
            await subscription.aclose()

    async def _on_started(self, _: Delivery) -> None:
        self._must_tell.set()

    async def _tell(self) -> None:
        self._marks = {name: mark for name, mark in self._marks.items() if not self._is_set(name)}
        alike: dict[_Mark, list[str]] = {}
        for name, mark in self._marks.items():
            alike.setdefault(mark, []).append(name)
        for mark, names in alike.items():
            await self._control.mark(names, mark.objective, only_unmarked=mark.only_unmarked)
