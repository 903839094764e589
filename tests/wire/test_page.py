"""What the page about the wire says is what the code does."""

from __future__ import annotations

import json
import re
import typing
from pathlib import Path

import msgspec
import pytest

from parrot_mq.bus import BusConfig
from parrot_mq.bus.streams import SUBJECTS, stream_configs
from parrot_mq.errors import ParrotError, rebuild_error
from parrot_mq.messages import (
    HEADER_BLOB,
    HEADER_PRODUCER,
    HEADER_SCHEMA,
    STREAM_BLOBS,
    STREAM_DEAD,
    STREAM_LEASES,
    STREAM_TASKS,
    STREAM_VARS,
    EventKind,
    PromptTask,
    TaskEvent,
)
from parrot_mq.messages.values import MAX_INLINE_BYTES
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
    [("field", PromptTask), ("field of `sampling`", Sampling), ("field of `objective`", Objective)],
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


def test_every_code_in_the_table_is_one() -> None:
    for code in _table("`code`"):
        assert type(rebuild_error(code, "")) is not ParrotError
        assert rebuild_error(code, "").code == code


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
    assert all(f"`{header}" in PAGE for header in (HEADER_BLOB, HEADER_PRODUCER, HEADER_SCHEMA, "Pmq-Status: error"))


def test_every_example_is_shown() -> None:
    shown = re.findall(r"<!-- examples/node/(\S+) -->\n```js\n", PAGE)
    assert sorted(shown) == sorted(EXAMPLES)
    assert PAGE.count("```js") == len(shown)


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert links
    assert all((FOLDER / link).exists() for link in links)
