"""The command line as a whole."""

from __future__ import annotations

import pytest

from parrot_mq.cli import app as command


def _crash() -> None:
    raise ZeroDivisionError("in the command")


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command with a mistake in it."""
    monkeypatch.setattr(command, "app", _crash)
    monkeypatch.setattr(command, "entry_points", lambda group: [])


def test_an_error_that_nobody_expected_is_one_line_and_says_how_to_see_more(
    crashing: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PARROT_MQ_DEBUG", raising=False)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 70
    output = capsys.readouterr().err
    assert "internal error: ZeroDivisionError: in the command" in output
    assert "PARROT_MQ_DEBUG=1" in output
    assert "Traceback" not in output


def test_the_traceback_is_there_for_who_asks(crashing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARROT_MQ_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        command.main()
