"""What a program says of a variable: how it is written, checked, and travels with a call."""

from __future__ import annotations

import pytest

from parrot_mq.errors import ConfigurationError
from parrot_mq.program import Input, Output, SemanticVariable, check_mark, semantic_function
from parrot_mq.types import Objective
from tests.program.recording_session import RecordingSession


@semantic_function
def report(
    text: Input,
    title: Output = Output(objective=Objective(ttft_ms=300, tpot_ms=25)),
    body: Output = Output(objective="throughput"),
    note: Output = Output(),
) -> None:
    """{{text}}
    Title: {{title}}
    Body: {{body}}
    Note: {{note}}"""


def test_a_mark_is_a_word_or_an_objective_with_targets() -> None:
    assert check_mark("latency") == Objective()
    assert check_mark("throughput") == Objective(kind="throughput")
    full = Objective(kind="throughput", ttft_ms=1, tpot_ms=0.5, deadline_s=7 * 86400)
    assert check_mark(full) is full


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        ("fast", "objective kind='fast' cannot be used: kind is 'latency' (somebody waits for it) or 'throughput'"),
        (Objective(kind="slow"), "objective kind='slow' cannot be used: kind is 'latency'"),  # type: ignore[arg-type]
        (Objective(ttft_ms=0), "objective ttft_ms=0 cannot be used: ttft_ms is a number of milliseconds to the first"),
        (Objective(tpot_ms=-5), "objective tpot_ms=-5 cannot be used: tpot_ms is a number of milliseconds for each"),
        (Objective(deadline_s=1e9), "objective deadline_s=1000000000.0 cannot be used: deadline_s is a number of sec"),
        (Objective(deadline_s="1"), "objective deadline_s='1' cannot be used"),  # type: ignore[arg-type]
        (5, "5 cannot be an objective: it is 'latency' (somebody waits for it) or 'throughput'"),
        (None, "None cannot be an objective"),
    ],
)
def test_a_mark_that_cannot_be_used_names_the_field_and_what_it_may_be(mark: object, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_mark(mark)
    assert caught.value.message.startswith(expected)
    assert caught.value.facts["argument"] == "objective"


def test_an_output_says_what_is_wanted_of_it() -> None:
    assert Output().objective is None
    assert Output(objective="latency").objective == Objective()
    assert Output(objective="throughput") == Output(objective=Objective(kind="throughput"))
    assert Output(objective="throughput") != Output()
    assert hash(Output(objective="latency")) == hash(Output(objective=Objective()))
    assert repr(Output(seed=1, objective="latency")).startswith("Output(seed=1, objective=Objective(kind='latency'")
    with pytest.raises(ConfigurationError, match="objective kind='soon' cannot be used"):
        Output(objective="soon")  # type: ignore[arg-type]


def test_a_function_says_what_is_wanted_of_the_outputs_that_say_so() -> None:
    assert report.spec.objectives == {
        "title": Objective(ttft_ms=300, tpot_ms=25),
        "body": Objective(kind="throughput"),
    }


async def test_a_variable_is_marked_in_its_session() -> None:
    session = RecordingSession()
    await SemanticVariable(session, "a").mark("throughput")
    assert session.marks == {"a": "throughput"}
