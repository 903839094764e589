"""The folder `schemas/`: it follows from the code, and what was released once is read for ever."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
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
RELEASED: dict[str, dict[str, Message]] = {
    folder.name: GENERATOR["golden_messages"](folder) for folder in sorted(GOLDEN.parent.iterdir())
}
"""What the golden payloads of each version say, by the names of their files."""
EXPECTED = RELEASED[GOLDEN.name]
GOLDEN_NAMES = [(version, name) for version, messages in RELEASED.items() for name in sorted(messages)]

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
    assert TAGS.keys() <= EXPECTED.keys()
    wanted = {f"{name}{suffix}" for name in EXPECTED for suffix in (".json", ".msgpack.hex")}
    assert wanted == {path.name for path in GOLDEN.iterdir()} - {"messages.py", "__pycache__"}


@pytest.mark.parametrize(("version", "name"), GOLDEN_NAMES)
def test_a_golden_payload_is_read_for_ever(version: str, name: str) -> None:
    message, folder = RELEASED[version][name], GOLDEN.parent / version
    from_json = decode((folder / f"{name}.json").read_bytes(), type(message))
    from_msgpack = decode(bytes.fromhex((folder / f"{name}.msgpack.hex").read_text()), type(message))
    assert from_json == from_msgpack == message


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_golden_payload_fits_its_schema(name: str) -> None:
    schema = _schema(str(EXPECTED[name].__struct_config__.tag))
    Draft202012Validator(schema).validate(json.loads((GOLDEN / f"{name}.json").read_text()))


def test_golden_payloads_use_every_field() -> None:
    """Each message all of its own, and all of them together those of what is inside: transforms, references, work."""
    used: dict[type[msgspec.Struct], set[str]] = {}
    for message in EXPECTED.values():
        for each in _structs(message):
            spoken = msgspec.to_builtins(each).keys() & set(each.__struct_fields__)
            used.setdefault(type(each), set()).update(spoken)
    for cls, spoken in used.items():
        assert spoken == set(cls.__struct_fields__), cls
    assert used.keys() == _struct_types(MESSAGE_TYPES)


def _structs(value: Any) -> Iterator[msgspec.Struct]:
    """A struct and all that are inside it."""
    match value:
        case msgspec.Struct():
            yield value
            inner: Iterable[Any] = (getattr(value, name) for name in value.__struct_fields__)
        case dict():
            inner = value.values()
        case list() | tuple():
            inner = value
        case _:
            inner = ()
    for each in inner:
        yield from _structs(each)


def _struct_types(classes: Sequence[type[Message]]) -> set[type[msgspec.Struct]]:
    """The classes, and those of the structs that they may have inside."""
    _, components = msgspec.json.schema_components(classes)
    infos = [msgspec.inspect.type_info(cls) for cls in classes]
    found: dict[str, type[msgspec.Struct]] = {}
    while infos:
        info = infos.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in found.values():
                continue
            found[info.cls.__name__] = info.cls
            infos += [field.type for field in info.fields]
        for name in ("type", "types", "item_type", "item_types", "key_type", "value_type"):
            inner = getattr(info, name, ())
            infos += inner if isinstance(inner, tuple) else [inner]
    assert found.keys() == components.keys()
    return set(found.values())


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


def test_a_message_that_has_grown_gets_a_further_golden_payload(folder: Path) -> None:
    """Those that are released stay as they are."""
    messages = folder / "golden" / "v1" / "messages.py"
    messages.write_text(
        messages.read_text().replace("    ServiceQuery(),\n", "    ServiceQuery(),\n    ServiceQuery(),\n")
    )
    assert _generate(folder).returncode == 0
    golden = messages.parent
    assert (golden / "service.query.2.json").read_text() == (golden / "service.query.json").read_text()
    assert (golden / "service.query.2.msgpack.hex").exists()


def test_a_new_message_needs_a_golden_payload(folder: Path) -> None:
    messages = folder / "golden" / "v1" / "messages.py"
    messages.write_text(messages.read_text().replace("    ServiceQuery(),\n", ""))
    result = _generate(folder, "--check")
    assert result.returncode == 1
    assert "golden/v1/messages.py: add one message of the new type 'service.query'" in result.stdout
