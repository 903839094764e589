"""What is checked at every step of a simulation: the invariants of all structures, and the log."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn
from unittest.mock import patch

import structlog

from parrot_mq.coordinator.coordinator import CoordinatorActor
from parrot_mq.coordinator.dispatch.dispatcher import DispatcherActor
from parrot_mq.coordinator.sessions.session import SessionActor
from parrot_mq.errors import ConnectionClosed
from parrot_mq.program import Objectives
from parrot_mq.testing import SimulatedEngine

__all__ = ["checked_structures"]

_FOLDERS = ("parrot_mq.coordinator", "parrot_mq.program")


@contextmanager
def checked_structures() -> Iterator[list[str]]:
    """Within the block, what has invariants is checked after every step; gives what was violated, and logged errors.

    Coordinators, dispatchers and sessions are checked after every message, with all that they hold; engines after every
    step; objectives, whose changes are collected, after every deduction.
    """
    faults: list[str] = []

    def note_error(_: object, method: str, event: MutableMapping[str, Any]) -> NoReturn:
        given = event.pop("exc_info", None)
        error = given if isinstance(given, BaseException) else sys.exc_info()[1]
        if method in ("error", "critical", "exception") and not isinstance(error, ConnectionClosed):  # who was killed
            faults.append(f"{event} {''.join(traceback.format_exception(error))}")
        raise structlog.DropEvent

    def check(thing: object) -> None:
        try:
            _check(thing)
        except AssertionError as error:
            faults.append("".join(traceback.format_exception(error)))
            raise

    former = structlog.get_config()
    structlog.configure(processors=[note_error], cache_logger_on_first_use=False)
    try:
        with ExitStack() as stack:
            for actor in (CoordinatorActor, DispatcherActor, SessionActor):
                stack.enter_context(patch.object(actor, "receive", _then_async(actor.receive, check)))
            for kind, name in ((Objectives, "deduce"), (SimulatedEngine, "step")):
                stack.enter_context(patch.object(kind, name, _then(getattr(kind, name), check)))
            yield faults
    finally:
        structlog.configure(**former)


def _then_async(method: Callable[..., Any], check: Callable[[object], None]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def checked(self: object, *args: object) -> object:
        answer = await method(self, *args)
        check(self)
        return answer

    return checked


def _then(method: Callable[..., Any], check: Callable[[object], None]) -> Callable[..., Any]:
    @functools.wraps(method)
    def checked(self: object, *args: object) -> object:
        answer = method(self, *args)
        check(self)
        return answer

    return checked


def _check(thing: object, depth: int = 3) -> None:
    """Check a thing, or if it has no invariants of its own, what it holds."""
    if (check := getattr(thing, "check_integrity", None)) is not None:
        check()
    elif depth:
        for value in _attributes(thing):
            if type(value).__module__.startswith(_FOLDERS) and not isinstance(value, Objectives):
                _check(value, depth - 1)


def _attributes(thing: object) -> Iterator[object]:
    yield from getattr(thing, "__dict__", {}).values()
    for kind in type(thing).__mro__:
        slots = getattr(kind, "__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            yield getattr(thing, name, None)
