"""Semantic variables."""

from __future__ import annotations

import pytest

from parrot_mq.errors import CallError
from parrot_mq.program import SemanticVariable
from tests.program.recording_session import RecordingSession


@pytest.fixture
def session() -> RecordingSession:
    return RecordingSession()


async def test_awaiting_it_reads_the_text(session: RecordingSession) -> None:
    session.texts["joke"] = "ha ha"
    variable = SemanticVariable(session, "joke")
    assert await variable == "ha ha"
    assert await variable.get(timeout_s=3) == "ha ha"
    assert session.timeouts_s == [None, 3]


async def test_it_can_be_awaited_again(session: RecordingSession) -> None:
    session.texts["joke"] = "ha"
    variable = SemanticVariable(session, "joke")
    assert [await variable, await variable] == ["ha", "ha"]


async def test_streaming_reads_it_in_pieces(session: RecordingSession) -> None:
    session.texts["joke"] = "ha ha ha"
    assert [piece async for piece in SemanticVariable(session, "joke").stream(timeout_s=2)] == ["ha", "ha", "ha"]
    assert session.timeouts_s == [2]


async def test_it_can_be_set_and_cancelled(session: RecordingSession) -> None:
    variable = SemanticVariable(session, "joke")
    await variable.set("ha")
    await variable.cancel()
    assert (session.texts, session.cancelled) == ({"joke": "ha"}, ["joke"])


def test_it_is_the_name_in_a_session_of_a_tenant(session: RecordingSession) -> None:
    variable = SemanticVariable(session, "joke")
    same = SemanticVariable(RecordingSession(), "joke")
    others = {
        SemanticVariable(session, "reason"),
        SemanticVariable(RecordingSession("other"), "joke"),
        SemanticVariable(RecordingSession(tenant="other"), "joke"),
    }
    assert variable == same
    assert len({variable, same}) == 1
    assert variable not in others
    assert len(others) == 3
    assert variable != "joke"


def test_its_repr_shows_where_it_lives(session: RecordingSession) -> None:
    assert repr(SemanticVariable(session, "joke")) == "<SemanticVariable 'joke' of session 'demo'>"


@pytest.mark.parametrize("use", [str, "{}".format, "{:>10}".format, lambda variable: f"Why: {variable}", print])
def test_formatting_it_would_put_its_name_into_a_prompt_and_is_refused(use: object, session: RecordingSession) -> None:
    assert callable(use)
    with pytest.raises(CallError) as caught:
        use(SemanticVariable(session, "joke"))
    assert caught.value.message == (
        "the text of <SemanticVariable 'joke' of session 'demo'> may not be known yet, so it cannot be formatted here; "
        "read it with `await variable`, or pass the variable to a semantic function as an input "
        "(its name is `variable.id`)"
    )
