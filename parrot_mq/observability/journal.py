"""The journal of systemd: events with their fields, over its native protocol, without a library.

Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL and systemd.journal-fields(7).
"""

from __future__ import annotations

import logging
import os
import re
import socket
import struct
import sys
import uuid
from collections.abc import Mapping

import structlog
from structlog.typing import EventDict

__all__ = ["Journal", "JournalHandler", "is_journal", "journal_entry"]

SOCKET = "/run/systemd/journal/socket"
MAX_VALUE_BYTES = 16 * 1024
"""Longer values are cut: a datagram holds about 200 kB."""
EVENTS = uuid.UUID("0f7d6a0e-3c63-5d2b-9c0e-6d8f0a4b7e21")
"""Names the MESSAGE_ID of each kind of event: the version 5 UUID of its name in here."""

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}
_IN_MESSAGE = 160
"""Longer values are fields alone, and not in the line that people read as well."""


def is_journal(environ: Mapping[str, str] | None = None) -> bool:
    """Whether stderr of this process goes to the journal, so that events may go there with their fields."""
    environ = os.environ if environ is None else environ
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def journal_entry(event: EventDict, common: Mapping[str, str]) -> bytes:
    """The datagram for an event.

    The fields are MESSAGE (the event and its fields in one line), PRIORITY, MESSAGE_ID (one for each kind of event),
    PARROT_EVENT, and PARROT_ with the name of each field in capitals.

    Args:
        event: What structlog made, with `event` and `level`.
        common: Further fields, by their names in the journal.
    """
    fields = dict(event)
    name, level = str(fields.pop("event", "")), str(fields.pop("level", "info"))
    fields.pop("timestamp", None)  # the journal has a better one
    trace = fields.pop("exception", None)
    shown = [f"{key}={value}" for key, value in fields.items() if key != "source" and len(str(value)) <= _IN_MESSAGE]
    lines = [" ".join((name, *shown)), *([str(trace)] if trace else [])]
    entry = {
        "MESSAGE": "\n".join(lines),
        "MESSAGE_ID": uuid.uuid5(EVENTS, name).hex,
        "PRIORITY": str(_PRIORITIES.get(level, 6)),
        **common,
        "PARROT_EVENT": name,
        **{_field_name(key): str(value) for key, value in fields.items()},
    }
    return b"".join(_encode(key, value) for key, value in entry.items())


def _field_name(key: str) -> str:
    return "PARROT_" + re.sub(r"[^A-Z0-9]", "_", key.upper())[:50]


def _encode(key: str, value: str) -> bytes:
    data = value.encode(errors="replace")[:MAX_VALUE_BYTES]
    if b"\n" not in data:
        return key.encode() + b"=" + data + b"\n"
    return key.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"


class Journal:
    """What structlog writes events to.

    An event that the journal does not take goes to stderr as one line: nothing is lost silently.

    Args:
        identifier: SYSLOG_IDENTIFIER of all events, as in `journalctl -t`.
        fields: Further fields of all events.
    """

    def __init__(self, identifier: str, fields: Mapping[str, object]) -> None:
        self._common = {"SYSLOG_IDENTIFIER": identifier} | {_field_name(k): str(v) for k, v in fields.items()}

    def log(self, **event: object) -> None:
        """Write one event."""
        entry = journal_entry(event, self._common)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
                link.sendto(entry, SOCKET)
        except OSError:
            print(entry.partition(b"\n")[0].decode(errors="replace"), file=sys.stderr)

    debug = info = warning = error = exception = critical = msg = log


class JournalHandler(logging.Handler):
    """Writes what libraries log to the journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record: its sentence is the event."""
        event: EventDict = {"event": record.getMessage(), "level": record.levelname.lower(), "source": record.name}
        if record.exc_info:
            event["exc_info"] = record.exc_info
        self._journal.log(**structlog.processors.format_exc_info(None, "", event))
