"""Regular expressions of others: compiled once, and within bounds of size and time."""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Iterator
from typing import Final

import regex

from parrot_mq.program.diagnostics import excerpt

__all__ = ["REGEX_TIMEOUT_S", "TimeBudget", "check_pattern", "find_every"]

REGEX_TIMEOUT_S: Final = 1.0
"""Seconds of computing for all searches of one output together; waiting for one's turn does not count."""
MAX_REPEATED: Final = 20_000
"""How large a pattern may become when its repetitions are written out, as the compiler does."""

_CACHED_PATTERNS: Final = 512
# A group's repetition multiplies what is in it, a character's only itself. Whatever does not stand directly behind a
# character or a class is taken for a group's, so a pattern is rather thought too large than too small.
_REPETITION = re.compile(r"(?P<atom>[A-Za-z0-9.\]])?\{\s*(?P<least>[0-9]+)\s*(?:,[\s0-9]*)?\}")
# What hides how large a pattern is, or what its search takes.
_UNUSABLE: Final = {
    "the flag `x`; write it without spaces and comments": re.compile(r"\(\?[A-Za-z0-9-]*x"),
    "a recursion, which may take any memory; write out what it repeats": re.compile(r"\(\?(?:R|&|P>|[+-]?[0-9])"),
}


class TimeBudget:
    """The time that is left for searches of one thread; it begins with the first."""

    def __init__(self, limit_s: float = REGEX_TIMEOUT_S) -> None:
        self._limit_s = limit_s
        self._end: float | None = None

    def left_s(self) -> float:
        """Seconds, above 0.

        Raises:
            TimeoutError: There are none.
        """
        now = time.thread_time()
        if self._end is None:
            self._end = now + self._limit_s
        if now >= self._end:
            raise TimeoutError
        return self._end - now


def check_pattern(pattern: str, group: int | str) -> None:
    """Check that a pattern can be used, and has a group.

    Raises:
        ValueError: It cannot, or has not; says what is wrong.
    """
    compiled = _compile(pattern)
    if isinstance(group, str) and group not in compiled.groupindex:
        known = ", ".join(compiled.groupindex) or "none"
        raise ValueError(f"the pattern {excerpt(pattern)} has no group named {excerpt(group)}; named groups: {known}")
    if isinstance(group, int) and not 0 <= group <= compiled.groups:
        raise ValueError(f"the pattern {excerpt(pattern)} has no group {group}; groups: 0 to {compiled.groups}")


def find_every(pattern: str, group: int | str, text: str, budget: TimeBudget) -> Iterator[str]:
    """What a group took in each match that it is part of.

    Raises:
        TimeoutError: The time ran out.
        MemoryError: The search took too much memory.
    """
    for match in _compile(pattern).finditer(text, timeout=budget.left_s(), concurrent=True):
        if match[group] is not None:
            yield match[group]


@functools.lru_cache(maxsize=_CACHED_PATTERNS)
def _compile(pattern: str) -> regex.Pattern[str]:
    _check_size(pattern)
    try:
        return regex.compile(pattern, cache_pattern=False)
    except regex.error as error:
        place = f" at character {error.pos}" if error.pos is not None else ""
        raise ValueError(f"the pattern {excerpt(pattern)} is no regular expression: {error.msg}{place}") from None
    except (RecursionError, OverflowError, MemoryError):
        raise ValueError("the pattern is nested too deeply, or too large; write a simpler one") from None


def _check_size(pattern: str) -> None:
    """Refuse a pattern that may take long to compile, which nothing can interrupt, or any memory.

    Raises:
        ValueError: It may.
    """
    for what, unusable in _UNUSABLE.items():
        if unusable.search(pattern):
            raise ValueError(f"the pattern {excerpt(pattern)} has {what}")
    repetitions = [(match["atom"] is None, int(match["least"])) for match in _REPETITION.finditer(pattern)]
    of_groups = math.prod(max(1, least) for is_group, least in repetitions if is_group)
    size = of_groups * (len(pattern) + sum(least for is_group, least in repetitions if not is_group))
    if size > MAX_REPEATED:
        raise ValueError(
            f"the pattern {excerpt(pattern)} repeats too much: written out it has up to {_short(size)} parts, at most "
            f"{MAX_REPEATED:,} are allowed; use smaller counts, or `+` or `*`"
        )


def _short(number: int) -> str:
    return f"{number:,}" if number < 10**12 else "very many"
