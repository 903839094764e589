"""JSON pointers, and events that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_mq.errors import EventMismatch
from parrot_mq.pipelines import Field
from parrot_mq.pipelines.mapping import map_fields, point, text_of
from parrot_mq.program.pointer import parse_pointer

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)

DOCUMENT = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, 'k"l': 6, " ": 7, "m~n": 8}


def _places(value: Any, pointer: str = "") -> list[tuple[str, Any]]:
    """Every pointer into a value, and what stands there."""
    inner: list[tuple[object, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    steps = [(f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}", each) for key, each in inner]
    return [(pointer, value)] + [place for step in steps for place in _places(step[1], step[0])]


@pytest.mark.parametrize(
    ("pointer", "value"),
    [("", DOCUMENT), ("/foo", ["bar", "baz"]), ("/foo/0", "bar"), ("/", 0), ("/a~1b", 1), ("/c%d", 2), ("/m~0n", 8)],
)
def test_the_examples_of_the_standard(pointer: str, value: object) -> None:
    assert point(DOCUMENT, pointer) == value


@given(JSON)
def test_a_pointer_finds_every_value(data: Any) -> None:
    for pointer, value in _places(data):
        assert point(data, pointer) == value


@given(JSON, st.lists(st.text(), max_size=4))
def test_a_pointer_finds_something_or_says_that_it_does_not_fit(data: Any, steps: list[str]) -> None:
    pointer = "".join(f"/{step.replace('~', '~0').replace('/', '~1')}" for step in steps)
    assert parse_pointer(pointer) == steps
    places = dict(_places(data))
    if pointer in places:
        assert point(data, pointer) == places[pointer]
    else:
        with pytest.raises(EventMismatch) as raised:
            point(data, pointer)
        assert raised.value.where == pointer


@given(JSON.filter(lambda value: value is not None))
def test_the_same_value_is_always_the_same_text(value: Any) -> None:
    text = text_of(value, "x")
    assert text == text_of(value, "y")
    assert text == value if isinstance(value, str) else isinstance(text, str)


@pytest.mark.parametrize("pointer", ["ticket", "a/b", "/a~2", "/~"])
def test_what_is_no_pointer_is_refused_where_it_is_declared(pointer: str) -> None:
    with pytest.raises(ValueError, match="JSON pointer"):
        Field(pointer=pointer)


def test_an_event_that_does_not_fit_is_told_how_far_it_fits() -> None:
    with pytest.raises(EventMismatch, match="/ticket is an object with body, id, no 'text'"):
        map_fields({"ticket": {"id": 1, "body": "secret"}}, {"text": Field(pointer="/ticket/text")})


def test_a_default_stands_for_what_is_not_there_and_for_null() -> None:
    fields = {"a": Field(pointer="/a", default="none"), "b": Field(pointer="/b", default="none")}
    assert map_fields({"a": None}, fields) == {"a": "none", "b": "none"}


@pytest.mark.parametrize("data", [[1, 2], {"x": [1, 2]}])
@pytest.mark.parametrize("step", ["-", "01", "2", "-1", "1.0", "99999999999999999999", "٣"])
def test_only_an_index_that_is_there_counts(data: Any, step: str) -> None:
    pointer = f"/x/{step}" if isinstance(data, dict) else f"/{step}"
    with pytest.raises(EventMismatch):
        point(data, pointer)
