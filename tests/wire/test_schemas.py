"""The folder `schemas/`: it follows from the code, and what was released once is read for ever."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from parrot_mq.errors import CodecError
from parrot_mq.messages import Message, decode, encode_json
from tests.wire.strategies import MESSAGE_TYPES, broken, json_documents, messages_of, unhurried

SCHEMAS = Path(__file__).parents[2] / "schemas"
GENERATOR: dict[str, Any] = runpy.run_path(str(SCHEMAS / "generate.py"))
TAGS = {str(cls.__struct_config__.tag): cls for cls in MESSAGE_TYPES}
GOLDEN = SCHEMAS / "golden" / "v1"
EXPECTED: dict[str, Message] = GENERATOR["golden_messages"]()

each_message = pytest.mark.parametrize("tag", sorted(TAGS))


def _schema(tag: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((SCHEMAS / "json" / f"{tag}.json").read_text())
    return schema


def _objects(schema: Any) -> list[dict[str, Any]]:
    return [schema, *schema.get("$defs", {}).values()]


# -- JSON Schema -----------------------------------------------------------------------------------------------------


@each_message
def test_a_schema_is_a_schema(tag: str) -> None:
    schema = _schema(tag)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:parrot-mq:1:{tag}"
    assert schema["title"] == TAGS[tag].__name__


@each_message
def test_a_schema_describes_every_field(tag: str) -> None:
    for found in _objects(_schema(tag)):
        assert found["description"].endswith((".", "`."))
        assert "Attributes:" not in found["description"]
        for name, field in found["properties"].items():
            assert field.get("description"), f"{found['title']}.{name}"


@each_message
@settings(unhurried, max_examples=30)
@given(data=st.data())
def test_a_schema_accepts_every_message(tag: str, data: st.DataObject) -> None:
    plain = json.loads(encode_json(data.draw(messages_of(TAGS[tag]))))
    validator = Draft202012Validator(_schema(tag))
    validator.validate(plain)
    validator.validate({name: value for name, value in plain.items() if name != "type"})


@each_message
@settings(unhurried, max_examples=30)
@given(data=st.data())
def test_a_schema_accepts_what_the_codec_accepts(tag: str, data: st.DataObject) -> None:
    plain = data.draw(messages_of(TAGS[tag]).flatmap(lambda message: broken(message, json_documents)))
    try:
        decode(json.dumps(plain).encode(), TAGS[tag])
    except CodecError:
        return
    Draft202012Validator(_schema(tag)).validate(plain)


@pytest.mark.parametrize(
    "document",
    [
        {"outputs": {"o": {"variable": "x"}}},
        {"template": "a {{o}}", "outputs": {}},
        {"template": "a {{o}}", "outputs": {"o": {"variable": "a b"}}},
        {"template": "a {{o}}", "outputs": {"o": {"variable": "a\n"}}},
        {"template": "a {{o}}", "outputs": {"o": {"variable": "x", "sampling": {"max_token": 1}}}},
        {"template": "a {{o}}", "outputs": {"o": {"variable": "x"}}, "timeout_s": 0},
        {"template": "a {{o}}", "outputs": {"o": {"variable": "x"}}, "type": "session.open"},
    ],
)
def test_a_schema_finds_the_usual_mistakes(document: dict[str, Any]) -> None:
    assert not Draft202012Validator(_schema("task.prompt")).is_valid(document)
    with pytest.raises(CodecError):
        decode(json.dumps(document).encode(), TAGS["task.prompt"])


# -- golden payloads -------------------------------------------------------------------------------------------------


def test_every_message_has_golden_payloads() -> None:
    assert EXPECTED.keys() == TAGS.keys()
    wanted = {f"{tag}{suffix}" for tag in TAGS for suffix in (".json", ".msgpack.hex")}
    assert wanted == {path.name for path in GOLDEN.iterdir()} - {"messages.py", "__pycache__"}


@pytest.mark.parametrize("tag", sorted(EXPECTED))
def test_a_golden_payload_is_read_for_ever(tag: str) -> None:
    from_json = decode((GOLDEN / f"{tag}.json").read_bytes(), TAGS[tag])
    from_msgpack = decode(bytes.fromhex((GOLDEN / f"{tag}.msgpack.hex").read_text()), TAGS[tag])
    assert from_json == from_msgpack == EXPECTED[tag]


@pytest.mark.parametrize("tag", sorted(EXPECTED))
def test_a_golden_payload_fits_its_schema(tag: str) -> None:
    Draft202012Validator(_schema(tag)).validate(json.loads((GOLDEN / f"{tag}.json").read_text()))


def test_golden_payloads_use_every_field() -> None:
    """But for `type`, which is not a field of the class."""
    for tag, message in EXPECTED.items():
        found = json.loads((GOLDEN / f"{tag}.json").read_text())
        assert found.keys() == {"type", *message.__struct_fields__}


# -- the generator ---------------------------------------------------------------------------------------------------


def test_the_folder_is_up_to_date() -> None:
    """If not: run `python schemas/generate.py`, look at what it changed, and commit it."""
    assert list(GENERATOR["differences"]()) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the folder."""
    ignored = shutil.ignore_patterns("node_modules", "__pycache__")
    return shutil.copytree(SCHEMAS, tmp_path / "schemas", ignore=ignored)


def _generate(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "generate.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder.parent)


def test_check_names_what_is_out_of_date_and_changes_nothing(folder: Path) -> None:
    assert _generate(folder, "--check").returncode == 0
    (folder / "json" / "blob.json").write_text("{}\n")
    (folder / "json" / "old.message.json").write_text("{}\n")
    (folder / "golden" / "v1" / "error.json").unlink()
    (folder / "examples" / "node" / "set.mjs").write_text("// another\n")
    result = _generate(folder, "--check")
    assert result.returncode == 1
    assert "--- schemas/json/blob.json\n" in result.stdout
    assert "--- schemas/golden/v1/error.json\n" in result.stdout
    assert "--- schemas/README.md\n" in result.stdout
    assert "schemas/json/old.message.json: no message has this tag\n" in result.stdout
    assert (folder / "json" / "blob.json").read_text() == "{}\n"


def test_writing_brings_all_up_to_date_but_golden_payloads(folder: Path) -> None:
    golden = folder / "golden" / "v1" / "error.json"
    golden.write_text(golden.read_text().replace("large", "grand"))
    (folder / "golden" / "v1" / "blob.json").unlink()
    (folder / "json" / "blob.json").unlink()
    (folder / "json" / "old.message.json").write_text("{}\n")
    assert _generate(folder).returncode == 0
    assert "grand" in golden.read_text()
    for name in ("golden/v1/blob.json", "json/blob.json"):
        assert (folder / name).read_text() == (SCHEMAS / name).read_text()
    assert not (folder / "json" / "old.message.json").exists()


def test_a_new_message_needs_a_golden_payload(folder: Path) -> None:
    messages = folder / "golden" / "v1" / "messages.py"
    messages.write_text(messages.read_text().replace("    ServiceQuery(),\n", ""))
    result = _generate(folder, "--check")
    assert result.returncode == 1
    assert "golden/v1/messages.py: add one message of the new type 'service.query'" in result.stdout
