"""What the page about the wire says is what the code does."""

from __future__ import annotations

import json
import re
import typing
from pathlib import Path

import msgspec
import pytest

from parrot_mq import errors
from parrot_mq.bus import BusConfig
from parrot_mq.bus.streams import SUBJECTS, stream_configs
from parrot_mq.coordinator import CoordinatorConfig
from parrot_mq.coordinator.calls.run import NUM_MISSING_BEATS
from parrot_mq.messages import (
    HEADER_BLOB,
    HEADER_PRODUCER,
    HEADER_SCHEMA,
    STREAM_BLOBS,
    STREAM_DEAD,
    STREAM_LEASES,
    STREAM_TASKS,
    STREAM_VARS,
    DeadEvent,
    DeadTask,
    ErrorInfo,
    EventKind,
    NativeCall,
    NativeTask,
    OutputSpec,
    PromptTask,
    TaskEvent,
)
from parrot_mq.messages.values import MAX_INLINE_BYTES
from parrot_mq.program.patterns import REGEX_TIMEOUT_S
from parrot_mq.program.transforms import MAX_LIST_ITEMS, MAX_TEXT, MAX_TRANSFORMS, Transform, apply_transforms
from parrot_mq.types import Objective, Sampling

FOLDER = Path(__file__).parents[2] / "schemas"
PAGE = (FOLDER / "README.md").read_text()
EXAMPLES = {path.name for path in (FOLDER / "examples" / "node").glob("*.mjs")}


def _table(first_column: str) -> dict[str, str]:
    """Rows of a table: what the first cell names, and the rest."""
    found = re.search(rf"\n\| {re.escape(first_column)} \|.*\n\|---.*\n", PAGE)
    assert found, first_column
    rows = PAGE[found.end() :].partition("\n\n")[0].splitlines()
    cells = [row.strip("| ").split(" | ", 1) for row in rows]
    return {name: text for names, text in cells for name in re.findall(r"`([^`]+)`", names)}


@pytest.mark.parametrize(
    ("title", "cls"),
    [
        ("field", PromptTask),
        ("field of an output", OutputSpec),
        ("field of `sampling`", Sampling),
        ("field of `objective`", Objective),
        ("field of a native task", NativeTask),
    ],
)
def test_every_field_of_a_task_is_explained(title: str, cls: type[msgspec.Struct]) -> None:
    rows = _table(title)
    fields = {field.name: field for field in msgspec.structs.fields(cls)}
    assert rows.keys() - {"type"} == fields.keys()
    for name, field in fields.items():
        default = rows[name].rpartition(" | ")[2]
        assert (default == "required") == field.required
        if isinstance(field.default, int | float):
            assert json.loads(default) == field.default


@pytest.mark.parametrize(
    ("title", "cls"),
    [("field of a call", NativeCall), ("field of `task.dead`", DeadTask), ("field of `pipeline.dead`", DeadEvent)],
)
def test_every_field_of_a_record_is_explained(title: str, cls: type[msgspec.Struct]) -> None:
    assert _table(title).keys() >= set(cls.__struct_fields__)


@pytest.mark.parametrize("text", re.findall(r"`(\{\"[^`…<]*\})`", PAGE))
def test_documents_within_the_text_are_json(text: str) -> None:
    json.loads(text)


def test_the_transforms_within_the_text_can_be_used() -> None:
    (shown,) = re.findall(r'`"transforms": (\[.*?\])`', PAGE)
    transforms = msgspec.json.decode(shown, type=list[Transform])
    assert apply_transforms(transforms, "I think.\nAnswer: 42 \n") == "42"


def test_every_transform_is_explained() -> None:
    """With each of its fields, and what that is if it is left out."""
    words = {r"'\n'": "a line break", "''": "(white space|all of it)", "0": "0, all of the match", "False": "false"}
    rows = _table("`op`")
    transforms = {str(cls.__struct_config__.tag): cls for cls in typing.get_args(Transform)}
    assert rows.keys() == transforms.keys()
    for name, cls in transforms.items():
        explained = rows[name].rpartition(" | ")[2]
        assert re.findall(r"`(\w+)`", explained) == list(cls.__struct_fields__)
        for field in msgspec.structs.fields(cls):
            default = "required" if field.required else words.get(repr(field.default), repr(field.default))
            assert re.search(rf"`{field.name}`[^;]*: {default}(;|$)", explained), field.name


HERE = {
    *("actor", "actor_failed", "actor_name_taken", "actor_not_found", "actor_stopped", "ask_timeout", "mailbox_full"),
    *("restart_intensity_exceeded", "call", "checkpoint", "codec", "configuration", "connect_failed"),
    *("connection_closed", "connection_lost", "consumer_taken_over", "error", "jetstream_unavailable"),
    *("no_responders", "no_token_allowed", "permission_denied", "pipeline", "process_failed", "program"),
    *("publish_rejected", "record_changed", "request_timeout", "server_start_failed", "server_too_old"),
    *("service_manager", "service_manager_unavailable", "session_closed", "signature", "stream_mismatch"),
    *("subject_taken", "transport", "unit_refused", "variable_already_set", "worker", "event_mismatch"),
}
"""Codes of errors that only the process meets in which they are raised, and of the classes that have them as children.
That of `event_mismatch` stands in a record on `dead`."""


def test_every_code_of_a_value_is_explained_with_a_remedy() -> None:
    """A new error is explained there, or stands among those that no other program meets."""
    rows = _table("`code`")
    codes = {getattr(errors, name).code for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    assert rows.keys() - {"internal"} == codes - HERE
    assert codes > HERE
    for row in rows.values():
        happened, remedy = row.split(" | ")
        assert happened
        assert remedy
    assert ErrorInfo.from_error(KeyError("x")).code == "internal"


def test_bounds_of_transforms_are_those_of_the_code() -> None:
    assert f"at most {MAX_TEXT:,} characters, a list at most {MAX_LIST_ITEMS:,} items" in PAGE
    assert REGEX_TIMEOUT_S == 1
    assert f"at most {MAX_TRANSFORMS}: see [Transforms]" in PAGE


def test_every_kind_of_event_is_explained() -> None:
    rows = _table("`kind`")
    assert list(rows) == list(typing.get_args(EventKind))
    fields = {field.name for field in msgspec.structs.fields(TaskEvent)}
    assert {name for text in rows.values() for name in re.findall(r"`([^`]+)`", text)} <= fields


def test_every_stream_is_explained() -> None:
    rows = _table("stream")
    assert rows.keys() == {STREAM_VARS, STREAM_TASKS, STREAM_BLOBS, STREAM_DEAD, STREAM_LEASES} == SUBJECTS.keys()
    max_age_s = {each["name"]: each.get("max_age", 0) / 1e9 for each in stream_configs(BusConfig())}
    assert "24 hours" in rows[STREAM_VARS]
    assert max_age_s[STREAM_VARS] == 24 * 3600
    assert "48 hours" in rows[STREAM_BLOBS]
    assert max_age_s[STREAM_BLOBS] == 48 * 3600
    assert "7 days" in rows[STREAM_DEAD]
    assert max_age_s[STREAM_DEAD] == 7 * 24 * 3600
    assert not max_age_s[STREAM_TASKS]
    assert not max_age_s[STREAM_LEASES]


def test_numbers_and_headers_are_those_of_the_code() -> None:
    assert MAX_INLINE_BYTES == 256 * 1024
    assert "above 256 KiB" in PAGE
    assert (CoordinatorConfig().function_grace_s, NUM_MISSING_BEATS) == (10, 3)
    assert "it is tried for ten seconds" in PAGE
    assert "lost after three that stay away" in " ".join(PAGE.split())
    assert all(f"`{header}" in PAGE for header in (HEADER_BLOB, HEADER_PRODUCER, HEADER_SCHEMA, "Pmq-Status: error"))


def test_every_example_is_shown() -> None:
    shown = re.findall(r"<!-- examples/node/(\S+) -->\n```js\n", PAGE)
    assert sorted(shown) == sorted(EXAMPLES)
    assert PAGE.count("```js") == len(shown)


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert links
    for link in links:
        assert link in anchors if link.startswith("#") else (FOLDER / link).exists(), link
