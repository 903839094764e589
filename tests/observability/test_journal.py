"""Events become entries of the journal, with their fields."""

from __future__ import annotations

import logging
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from parrot_mq.observability import configure_logging, get_logger, journal
from parrot_mq.observability.journal import MAX_VALUE_BYTES, is_journal, journal_entry


def _decode(entry: bytes) -> dict[str, str]:
    """Read a datagram as journald does."""
    fields: dict[str, str] = {}
    while entry:
        line, _, entry = entry.partition(b"\n")
        name, is_short, value = line.partition(b"=")
        if not is_short:
            (size,) = struct.unpack("<Q", entry[:8])
            value, end, entry = entry[8 : 8 + size], entry[8 + size : 9 + size], entry[9 + size :]
            assert end == b"\n"
        fields[name.decode()] = value.decode(errors="replace")
    return fields


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The journal's socket."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "journal"))
        listening.settimeout(5)
        monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "journal"))
        yield listening
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_an_event_has_its_fields_and_a_line_for_people() -> None:
    event = {"event": "worker_state", "level": "warning", "timestamp": "now", "state": "ready", "num_slots": 8}
    fields = _decode(journal_entry(event, {"SYSLOG_IDENTIFIER": "parrot-worker"}))
    message_id = fields.pop("MESSAGE_ID")
    assert fields == {
        "MESSAGE": "worker_state state=ready num_slots=8",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "parrot-worker",
        "PARROT_EVENT": "worker_state",
        "PARROT_STATE": "ready",
        "PARROT_NUM_SLOTS": "8",
    }
    again = _decode(journal_entry({"event": "worker_state", "level": "info"}, {}))
    assert again["MESSAGE_ID"] == message_id, "one for each kind of event"
    assert _decode(journal_entry({"event": "other", "level": "info"}, {}))["MESSAGE_ID"] != message_id


@given(st.dictionaries(st.text(min_size=1, max_size=80), st.text(max_size=200), max_size=6))
def test_whatever_an_event_holds_the_journal_can_read_it(values: dict[str, str]) -> None:
    values = {key: value for key, value in values.items() if key not in ("event", "level", "timestamp", "exception")}
    fields = _decode(journal_entry({"event": "thing_happened", "level": "info", **values}, {}))
    assert all(name.replace("_", "").isalnum() and name.isascii() and len(name) <= 64 for name in fields)
    assert fields["PARROT_EVENT"] == "thing_happened" or "event" in {key.lower() for key in values}


def test_long_values_are_cut_and_stay_out_of_the_line() -> None:
    fields = _decode(journal_entry({"event": "e", "level": "info", "trace": "x" * 1_000_000}, {}))
    assert fields["MESSAGE"] == "e"
    assert len(fields["PARROT_TRACE"]) == MAX_VALUE_BYTES


def test_events_and_records_of_libraries_go_to_the_journal(heard: socket.socket) -> None:
    configure_logging("info", "journal", identifier="parrot-worker", fields={"slot": 3})
    get_logger("test").info("thing_happened", size_bytes=3)
    fields = _decode(heard.recv(65536))
    assert (fields["PARROT_SIZE_BYTES"], fields["PARROT_SLOT"], fields["PARROT_SOURCE"]) == ("3", "3", "test")
    get_logger("test").debug("nobody_wants_this")
    logging.getLogger("nats").error("it broke")
    fields = _decode(heard.recv(65536))
    assert (fields["MESSAGE"], fields["PRIORITY"], fields["PARROT_SOURCE"]) == ("it broke", "3", "nats")


def test_an_error_comes_with_its_traceback(heard: socket.socket) -> None:
    configure_logging("info", "journal")
    try:
        raise ValueError("wrong")
    except ValueError:
        get_logger("test").exception("thing_failed")
    assert "ValueError: wrong" in _decode(heard.recv(65536))["MESSAGE"]


def test_what_the_journal_does_not_take_goes_to_stderr(
    monkeypatch: pytest.MonkeyPatch, heard: socket.socket, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(journal, "SOCKET", "/nothing/here")
    configure_logging("info", "journal")
    get_logger("test").info("thing_happened", size_bytes=3)
    assert "thing_happened size_bytes=3" in capfd.readouterr().err


def test_only_a_process_whose_stderr_is_the_journal_writes_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryFile("w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        status = os.fstat(stderr.fileno())
        assert is_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not is_journal({"JOURNAL_STREAM": "1:2"})
        assert not is_journal({})
