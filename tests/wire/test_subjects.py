"""Subjects are built and read in one place, and only from names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_mq.errors import InvalidName
from parrot_mq.messages import (
    ControlAddress,
    TaskAddress,
    VariableAddress,
    actor_subject,
    blob_subject,
    control_subject,
    dead_subject,
    event_subject,
    parse_control,
    parse_replay,
    parse_task,
    parse_variable,
    replay_subject,
    session_subjects,
    set_subject,
    stream_subject,
    task_subject,
    variable_subject,
    worker_address,
)
from tests.wire.strategies import names, unhurried

Builder = Callable[..., str]

BUILDERS: dict[Builder, int] = {
    variable_subject: 3,
    set_subject: 3,
    task_subject: 3,
    control_subject: 3,
    stream_subject: 3,
    replay_subject: 3,
    event_subject: 3,
    blob_subject: 3,
    dead_subject: 2,
    session_subjects: 3,
    actor_subject: 2,
    worker_address: 1,
}
"""Each builder and how many names it takes."""

MAY_BE_ANY: dict[Builder, set[int]] = {
    stream_subject: {1, 2},
    event_subject: {1, 2},
    blob_subject: {2},
    session_subjects: {1},
}
"""Which of them may be `*`."""

NOT_NAMES = ["", ".", "a.b", "*", ">", "a*", "$JS", "a b", "a\n", "\n", "a/b", "ü", "名", "🦜", "x" * 65, "a\x00"]


@pytest.mark.parametrize(("builder", "num_names"), BUILDERS.items(), ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("wrong", NOT_NAMES)
def test_every_token_of_a_subject_is_checked(builder: Builder, num_names: int, wrong: str) -> None:
    for index in range(num_names):
        tokens = ["name"] * num_names
        tokens[index] = wrong
        if wrong == "*" and index in MAY_BE_ANY.get(builder, ()):
            assert "*" in builder(*tokens)
        else:
            with pytest.raises(InvalidName, match="use 1 to 64 of the characters"):
                builder(*tokens)


def test_the_subjects_are_those_of_the_page() -> None:
    assert variable_subject("t", "s", "v") == "pmq.t.var.s.v"
    assert set_subject("t", "s", "v") == "pmq.t.set.s.v"
    assert task_subject("t", "s", "k") == "pmq.t.task.s.k"
    assert control_subject("t", "s", "open") == "pmq.t.control.s.open"
    assert stream_subject("t", "s", "v") == "pmq.t.stream.s.v"
    assert replay_subject("t", "s", "v") == "pmq.t.replay.s.v"
    assert event_subject("t", "*", "ready") == "pmq.t.event.*.ready"
    assert blob_subject("t", "ab", 3) == "pmq.t.blob.ab.3"
    assert dead_subject("t", "k") == "pmq.t.dead.k"
    assert session_subjects("t", "s", "set") == "pmq.t.set.s.>"
    assert actor_subject("coordinator", "registry") == "pmq-sys.actor.coordinator.registry"
    assert worker_address("w") == "w/worker"


@unhurried
@given(tenant=names, session=names, last=names)
def test_what_was_built_can_be_read(tenant: str, session: str, last: str) -> None:
    parts = (tenant, session, last)
    assert tuple(parse_variable(variable_subject(*parts))) == parts
    assert tuple(parse_variable(set_subject(*parts))) == parts
    assert tuple(parse_replay(replay_subject(*parts))) == parts
    assert tuple(parse_task(task_subject(*parts))) == parts
    assert tuple(parse_control(control_subject(*parts))) == parts


def test_addresses_have_names() -> None:
    assert isinstance(parse_variable("pmq.t.var.s.v"), VariableAddress)
    assert isinstance(parse_task("pmq.t.task.s.k"), TaskAddress)
    assert isinstance(parse_control("pmq.t.control.s.close"), ControlAddress)
    assert parse_variable("pmq.t.var.s.v").variable == "v"


@pytest.mark.parametrize("parse", [parse_variable, parse_replay, parse_task, parse_control])
@pytest.mark.parametrize(
    "subject",
    [
        "", "pmq", "pmq.t.var.s", "pmq.t.var.s.v.w", "pmq.t.task.s", "pmq.t.task.s.k.l", "pmq.t.control.s.open.now",
        "pmq.t.event.s.ready", "other.t.var.s.v", "other.t.task.s.k", "pmq-sys.t.control.s.open",
        "pmq..var.s.v", "pmq.t.var..v", "pmq.t.task.s.", "pmq.t.control.s.*", "pmq.t.var.s.>", "pmq.ü.task.s.k",
    ],
)  # fmt: skip
def test_a_foreign_subject_is_an_invalid_name(parse: Callable[[str], object], subject: str) -> None:
    with pytest.raises(InvalidName):
        parse(subject)


@pytest.mark.parametrize(
    ("parse", "subject"),
    [
        (parse_variable, "pmq.t.task.s.k"),
        (parse_replay, "pmq.t.stream.s.v"),
        (parse_task, "pmq.t.var.s.v"),
        (parse_control, "pmq.t.set.s.v"),
    ],
)
def test_a_subject_of_another_kind_is_an_invalid_name(parse: Callable[[str], object], subject: str) -> None:
    with pytest.raises(InvalidName, match=r"expected pmq\.<tenant>\."):
        parse(subject)


@unhurried
@given(subject=st.text())
def test_no_text_is_worse_than_an_invalid_name(subject: str) -> None:
    for parse in (parse_variable, parse_replay, parse_task, parse_control):
        with pytest.raises(InvalidName):
            parse(subject)
