"""What the event loop and the engine's thread hand to each other: bounded both ways, under one lock."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from parrot_workers.engine.base import EngineEvent, GenerationRequest, PrefillRequest

__all__ = ["Command", "Exchange", "Pins", "Prefills"]


class Pins(NamedTuple):
    """Prefixes to keep: the complete set."""

    names: tuple[str, ...]


class Prefills(NamedTuple):
    """Beginnings of prompts to compute ahead: the complete set."""

    requests: tuple[PrefillRequest, ...]


Command: TypeAlias = list[GenerationRequest] | set[str] | Pins | Prefills
"""Requests to submit, or keys to cancel, or prefixes to keep, or beginnings to compute ahead."""


class Exchange:
    """Commands one way, events the other. The thread waits here; the loop never does: the lock is held for moments.

    Args:
        max_commands: Submissions that may lie here; more are not taken.
        max_batches: Steps whose events may lie here; the thread waits while there are as many.
    """

    def __init__(self, *, max_commands: int, max_batches: int) -> None:
        self._max_commands = max_commands
        self._max_batches = max_batches
        self._changed = threading.Condition(threading.Lock())
        self._commands: deque[Command] = deque()
        self._num_submits = 0
        self._pins: Pins | None = None
        self._prefills: Prefills | None = None
        self._batches: deque[list[EngineEvent]] = deque()
        self._is_stopping = self._is_closed = False

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping

    # -- for the loop ------------------------------------------------------------------------------------------------

    def try_submit(self, requests: Sequence[GenerationRequest]) -> bool:
        """Leave requests for the engine. Returns: false if there is no room, or nobody to take them any more."""
        with self._changed:
            if self._is_closed or self._num_submits >= self._max_commands:
                return False
            self._num_submits += 1
            self._commands.append(list(requests))
            self._changed.notify()
            return True

    def cancel(self, keys: Iterable[str]) -> None:
        """Leave keys to cancel; always taken. They join one that is last, so submissions bound their number."""
        with self._changed:
            if self._is_closed:
                return
            if self._commands and isinstance(self._commands[-1], set):
                self._commands[-1].update(keys)
            else:
                self._commands.append(set(keys))
            self._changed.notify()

    def pin(self, names: Iterable[str]) -> None:
        """Leave the prefixes to keep; always taken. They replace those that still lie here."""
        with self._changed:
            if not self._is_closed:
                self._pins = Pins(tuple(names))
                self._changed.notify()

    def prefill(self, requests: Iterable[PrefillRequest]) -> None:
        """Leave the beginnings to compute ahead; always taken. They replace those that still lie here."""
        with self._changed:
            if not self._is_closed:
                self._prefills = Prefills(tuple(requests))
                self._changed.notify()

    def take_events(self) -> list[EngineEvent]:
        """Take the events of all steps that lie here, in order."""
        with self._changed:
            events = [event for batch in self._batches for event in batch]
            self._batches.clear()
            self._changed.notify()
            return events

    def stop(self) -> None:
        """Let the thread end when it comes here next."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()

    # -- for the thread ----------------------------------------------------------------------------------------------

    def wait_commands(
        self, has_work: Callable[[], bool], tell_room: Callable[[], None], *, max_idle_s: float | None = None
    ) -> list[Command] | None:
        """Wait until there are commands or work, and room for the events of a step; or until it has been idle for long.

        Args:
            has_work: Whether to go on without commands.
            tell_room: Called if there is room again for submissions that were not taken.
            max_idle_s: Seconds to wait for something to do.

        Returns:
            The commands, or none when the thread is to end.
        """
        with self._changed:
            while not self._is_stopping:
                is_idle = not (self._has_commands or has_work())
                if not is_idle and len(self._batches) < self._max_batches:
                    if self._num_submits >= self._max_commands:
                        tell_room()
                    return self._take_commands()
                if not self._changed.wait(max_idle_s if is_idle else None):
                    return []
        return None

    def put_events(self, events: list[EngineEvent]) -> None:
        """Leave the events of a step for the loop."""
        with self._changed:
            self._batches.append(events)

    def close(self) -> list[Command]:
        """Take nothing more. Returns: the commands that were left."""
        with self._changed:
            self._is_closed = True
            return self._take_commands()

    @property
    def _has_commands(self) -> bool:
        return bool(self._commands) or self._pins is not None or self._prefills is not None

    def _take_commands(self) -> list[Command]:
        """Take all commands; pins first, so that what they keep is not evicted by what comes with them. What is to be
        computed ahead comes last: some of it may have come.
        """
        hints: list[Command] = [each for each in (self._pins, self._prefills) if each is not None]
        commands = sorted([*hints, *self._commands], key=_turn)
        self._commands.clear()
        self._num_submits = 0
        self._pins = self._prefills = None
        return commands


def _turn(command: Command) -> int:
    if isinstance(command, Pins):
        return 0
    return 2 if isinstance(command, Prefills) else 1
