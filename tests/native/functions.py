"""Native functions of the tests: each is the least that a person would write."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import NamedTuple

from parrot_mq.errors import QuotaExceeded
from parrot_mq.native import current_call
from parrot_mq.program import native_function


class Halves(NamedTuple):
    """Two texts."""

    first: str
    second: str


@dataclass
class Verdict:
    """Two texts."""

    verdict: str
    reason: str


@native_function
def shout(text: str) -> str:
    """In capitals."""
    return text.upper()


@native_function
async def greet(name: str, greeting: str = "Hello") -> str:
    """Say hello."""
    return f"{greeting} {name}"


@native_function
def words(text: str) -> list[str]:
    """One by one."""
    return text.split()


@native_function
async def halve(text: str) -> Halves:
    """Two parts."""
    middle = len(text) // 2
    return Halves(text[:middle], text[middle:])


@native_function
def judge(text: str) -> Verdict:
    """A verdict, with its reason."""
    return Verdict("fine", f"{text} is fine")


@native_function(max_attempts=5, retry_on=(ConnectionError, LookupError))
async def fail(kind: str) -> str:
    """Raise what is asked for."""
    match kind:
        case "value":
            raise ValueError("no such thing: secret-plan.txt")
        case "lookup":
            raise KeyError("gone")
        case "refused":
            raise ConnectionRefusedError("nobody listens")
        case "quota":
            raise QuotaExceeded(tenant="t", what="calls", limit=1)
        case "exit":
            raise SystemExit(3)
        case "cancelled":
            raise asyncio.CancelledError
    raise AssertionError(kind)


@native_function
def fail_in_thread(kind: str) -> str:
    """Raise what is asked for, in a thread."""
    raise SystemExit(3) if kind == "exit" else StopIteration("the end")


@native_function
async def nap(seconds: str) -> str:
    """Wait without keeping others."""
    await asyncio.sleep(float(seconds))
    return f"slept {seconds}"


@native_function
async def who() -> str:
    """Which call this is."""
    call = current_call()
    return f"{call.call} attempt {call.attempt}"


@native_function
def who_in_thread() -> str:
    """Which call this is."""
    return current_call().call
