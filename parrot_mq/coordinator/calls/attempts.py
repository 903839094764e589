"""What comes after an attempt at a call that brought no answer: another one, and when, or none. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum

from parrot_mq.errors import FunctionNotServed, ParrotError, rebuild_error

__all__ = ["Again", "Attempts", "GiveUp", "Setback", "SetbackKind", "not_served"]


class SetbackKind(Enum):
    """Why an attempt brought no answer."""

    NOT_SERVED = "not_served"
    """Nobody listens. It was not begun."""
    BUSY = "busy"
    """Whoever was asked has no room. It was not begun."""
    CUT = "cut"
    """The connection to the server was lost. It may have been begun, and that is nobody's fault."""
    FAILED = "failed"
    """It ended with an error that another attempt may not meet, or nothing was heard of it for too long."""
    REFUSED = "refused"
    """It ended with an error that every attempt would meet."""


@dataclass(frozen=True, slots=True)
class Setback:
    """How an attempt ended without an answer."""

    kind: SetbackKind
    error: ParrotError


@dataclass(frozen=True, slots=True)
class Again:
    """Try once more, in so many seconds."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The call has failed."""

    error: ParrotError


@dataclass(frozen=True, slots=True)
class _Delays:
    """Growing from `first_s`, twice as long each time, up to `max_s`."""

    first_s: float
    max_s: float

    def after(self, num_before: int) -> float:
        return min(self.max_s, self.first_s * 2.0 ** min(num_before, 30))


_DELAYS = {
    SetbackKind.NOT_SERVED: _Delays(0.05, 1.0),
    SetbackKind.BUSY: _Delays(0.05, 1.0),
    SetbackKind.CUT: _Delays(0.1, 2.0),
    SetbackKind.FAILED: _Delays(0.2, 30.0),
}


def not_served(tenant: str, function: str) -> FunctionNotServed:
    """Nobody takes the calls of a function, and what to do about it."""
    subject = f"pmq.{tenant}.call.*.{function}"
    remedy = (
        f"serve it with `parrot-mq native app:module`, or any NATS client that listens on {subject} in a queue group"
    )
    return FunctionNotServed(function=function, remedy=remedy)


class Attempts:
    """How often one call was attempted, and what comes next.

    An attempt counts if it may have been begun and ended by a failure of its own. What does not count is tried again
    soon: for ever while hosts are busy or the server is away, for `grace_s` while nobody listens.

    Args:
        tenant: Whose call it is.
        function: What is called.
        max_attempts: How many may count.
        grace_s: How long nobody may listen.
        rng: Delays are cut by up to a half, so that those who failed together do not come back together.

    Attributes:
        number: Of the attempt that runs, or comes next; 1 is the first.
    """

    def __init__(self, *, tenant: str, function: str, max_attempts: int, grace_s: float, rng: random.Random) -> None:
        self.number = 1
        self._tenant = tenant
        self._function = function
        self._max_attempts = max_attempts
        self._grace_s = grace_s
        self._rng = rng
        self._num_uncounted = 0  # setbacks of this attempt, one after the other, that do not count

    def decide(self, setback: Setback, *, unserved_s: float = 0.0) -> Again | GiveUp:
        """An attempt brought no answer.

        Args:
            setback: Why.
            unserved_s: How long nobody has listened while the call was there.
        """
        match setback.kind:
            case SetbackKind.REFUSED:
                return GiveUp(setback.error)
            case SetbackKind.NOT_SERVED if unserved_s >= self._grace_s:
                return GiveUp(not_served(self._tenant, self._function))
            case SetbackKind.NOT_SERVED:
                delay_s = self._delay_s(setback.kind, self._count_up())
                return Again(min(delay_s, self._grace_s - unserved_s))
            case SetbackKind.BUSY | SetbackKind.CUT:
                return Again(self._delay_s(setback.kind, self._count_up()))
            case SetbackKind.FAILED if self.number >= self._max_attempts:
                return GiveUp(_after(self.number, setback.error))
            case SetbackKind.FAILED:
                delay_s = self._delay_s(setback.kind, self.number - 1)
                self.number += 1
                self._num_uncounted = 0
                return Again(delay_s)

    def _count_up(self) -> int:
        self._num_uncounted += 1
        return self._num_uncounted - 1

    def _delay_s(self, kind: SetbackKind, num_before: int) -> float:
        return _DELAYS[kind].after(num_before) * self._rng.uniform(0.5, 1.0)


def _after(num_attempts: int, error: ParrotError) -> ParrotError:
    """The last error, and how often it was tried."""
    if num_attempts == 1:
        return error
    message = f"{error.message}; given up after {num_attempts} attempts"
    return rebuild_error(error.code, message, error.facts, error.retryable)
