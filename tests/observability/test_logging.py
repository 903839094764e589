"""Logs: events with fields, for people on a terminal and for machines elsewhere, never on stdout."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from parrot_mq.errors import ConfigurationError
from parrot_mq.observability import configure_logging, get_logger, parse_trace, use_trace
from parrot_mq.observability.logging import is_debug


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_has_one_object_per_event() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream=stream)
    get_logger("parrot_mq.test").info("thing_happened", size_bytes=3)
    event = json.loads(stream.getvalue())
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "thing_happened", "level": "info", "size_bytes": 3, "source": "parrot_mq.test"}


def test_a_line_says_which_trace_it_belongs_to() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream=stream)
    with use_trace(parse_trace(f"00-{'a' * 32}-{'b' * 16}-01")):
        get_logger("test").info("thing_happened")
        get_logger("test").info("thing_happened", trace_id="its own")
        logging.getLogger("nats").warning("lost connection")
    get_logger("test").info("thing_happened_later")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line.get("trace_id") for line in lines] == ["a" * 32, "its own", "a" * 32, None]


def test_terminal_gets_readable_lines_and_everything_else_json() -> None:
    terminal, pipe = _Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        configure_logging(stream=stream)
        get_logger("test").info("thing_happened")
    assert "thing_happened" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    assert json.loads(pipe.getvalue())["event"] == "thing_happened"


def test_logs_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    get_logger("test").info("thing_happened")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "thing_happened" in captured.err


def test_whoever_takes_stderr_over_gets_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a progress bar does, for as long as it is shown."""
    configure_logging("info", "json")
    taken_over = io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr("sys.stderr", taken_over)
        get_logger("test").info("thing_happened")
        logging.getLogger("nats").warning("lost connection")
    get_logger("test").info("thing_happened_later")
    events = [json.loads(line)["event"] for line in taken_over.getvalue().splitlines()]
    assert events == ["thing_happened", "lost connection"]


def test_where_nobody_configures_anything_warnings_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.reset_defaults()
    log = get_logger("test")
    log.info("thing_happened")
    log.warning("trouble_came", size_bytes=3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "thing_happened" not in captured.err
    assert "trouble_came" in captured.err
    assert "size_bytes=3" in captured.err


def test_events_below_the_level_are_left_out() -> None:
    stream = io.StringIO()
    configure_logging("warning", "json", stream=stream)
    get_logger("test").info("thing_happened")
    assert stream.getvalue() == ""


def test_logger_made_before_the_configuration_follows_it() -> None:
    logger = get_logger("test")
    first, second = io.StringIO(), io.StringIO()
    for stream in (first, second):
        configure_logging("info", "json", stream=stream)
        logger.info("thing_happened")
    assert len(first.getvalue().splitlines()) == len(second.getvalue().splitlines()) == 1


def test_context_is_part_of_every_event() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream=stream)
    structlog.contextvars.bind_contextvars(actor="node/actor")
    get_logger("test").info("thing_happened")
    assert json.loads(stream.getvalue())["actor"] == "node/actor"


@pytest.mark.parametrize("fmt", ["json", "pretty"])
def test_tracebacks_hold_no_local_variables(fmt: str) -> None:
    """Local variables hold prompts, and prompts are not logged."""
    stream = io.StringIO()
    configure_logging("info", fmt, stream=stream)  # type: ignore[arg-type]
    prompt = "".join(["secret", " prompt"])
    try:
        raise ValueError(len(prompt))
    except ValueError:
        get_logger("test").exception("thing_failed")
    assert "ValueError: 13" in stream.getvalue()
    assert "secret prompt" not in stream.getvalue()


def test_logs_of_libraries_take_the_same_form() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream=stream)
    logging.getLogger("nats").warning("lost %s", "connection")
    logging.getLogger("nats").info("chatter")
    event = json.loads(stream.getvalue())
    assert (event["event"], event["source"], event["level"]) == ("lost connection", "nats", "warning")


def test_debug_is_on_only_when_asked_for() -> None:
    assert not is_debug()
    configure_logging("info", stream=io.StringIO())
    assert not is_debug()
    configure_logging("debug", stream=io.StringIO())
    assert is_debug()


@pytest.mark.parametrize(("level", "fmt"), [("loud", "json"), ("info", "xml")])
def test_impossible_settings_are_refused(level: str, fmt: str) -> None:
    with pytest.raises(ConfigurationError, match="is one of"):
        configure_logging(level, fmt)  # type: ignore[arg-type]
