"""Subjects as the server sees them: what may be published on, what may be subscribed to, what matches what."""

from __future__ import annotations

import re

from parrot_mq.errors import InvalidName

__all__ = ["check_filter", "check_subject", "has_wildcard", "matches"]

_TOKEN = r"[^\s.*>]+"
_SUBJECT = re.compile(rf"{_TOKEN}(?:\.{_TOKEN})*")
_FILTER = re.compile(rf"(?:(?:{_TOKEN}|\*)(?:\.(?:{_TOKEN}|\*))*(?:\.>)?|>)")


def check_subject(subject: str) -> str:
    """Return `subject` if it can be published on.

    Raises:
        InvalidName: It is empty, has an empty token, white space or a wildcard.
    """
    if _SUBJECT.fullmatch(subject) is None:
        raise InvalidName(
            kind="subject", name=subject, rule="use tokens without white space, `*` or `>`, joined by dots"
        )
    return subject


def check_filter(subject: str) -> str:
    """Return `subject` if it can be subscribed to: `*` stands for one token, `>` at the end for one or more.

    Raises:
        InvalidName: It is empty, has an empty token, white space or a misplaced wildcard.
    """
    if _FILTER.fullmatch(subject) is None:
        raise InvalidName(kind="subject", name=subject, rule="`*` is one whole token and `>` the last one")
    return subject


def has_wildcard(subject: str) -> bool:
    """Whether a checked subject stands for more than one."""
    return "*" in subject or ">" in subject


def matches(pattern: str, subject: str) -> bool:
    """Whether a subscription to `pattern` gets what is published on `subject`."""
    if pattern == subject:
        return True
    wanted, found = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(found) <= len(wanted):
            return False
    elif len(found) != len(wanted):
        return False
    return all(w in ("*", f) for w, f in zip(wanted, found, strict=False))
