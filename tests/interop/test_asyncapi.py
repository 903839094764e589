"""The AsyncAPI document, read by the official parser, which nobody here wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.node import EXAMPLES, Line, running_script, script_folder

pytestmark = pytest.mark.node

SCHEMAS = EXAMPLES.parents[1]
SCRIPTS = Path(__file__).parent / "asyncapi"


@pytest.fixture(scope="module")
def scripts() -> Iterator[Path]:
    """The script beside the parser."""
    with script_folder(SCRIPTS) as folder:
        yield folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the document and of the JSON Schemas that it names."""
    shutil.copytree(SCHEMAS / "json", tmp_path / "json")
    shutil.copy(SCHEMAS / "asyncapi.json", tmp_path)
    return tmp_path


async def _parse(scripts: Path, document: Path) -> Line:
    async with running_script(scripts / "parse.mjs", str(document), environment={}) as script:
        return await script.next_line()


async def test_the_document_is_valid_and_complete(scripts: Path) -> None:
    parsed = await _parse(scripts, SCHEMAS / "asyncapi.json")
    assert parsed["problems"] == []
    understood, written = parsed["understood"], json.loads((SCHEMAS / "asyncapi.json").read_text())
    assert understood["version"].startswith("3.")
    assert len(understood["channels"]) == len(written["channels"])
    assert sorted(understood["operations"]) == sorted(written["operations"])


async def test_messages_are_the_json_schemas(scripts: Path) -> None:
    """The parser has followed the references, also those inside the schemas."""
    payloads = (await _parse(scripts, SCHEMAS / "asyncapi.json"))["understood"]["payloads"]
    output = payloads["task.prompt"]["properties"]["outputs"]["additionalProperties"]
    assert output["properties"]["sampling"]["properties"]["max_tokens"]["minimum"] == 1
    assert all(payloads.values())


def _lose_a_message(document: dict[str, Any]) -> None:
    del document["components"]["messages"]["task.prompt"]


def _misname_a_schema(document: dict[str, Any]) -> None:
    document["components"]["messages"]["task.prompt"]["payload"]["$ref"] = "json/task.prompts.json"


def _send_what_is_not_there(document: dict[str, Any]) -> None:
    document["operations"]["program.setVariable"]["action"] = "shout"


@pytest.mark.parametrize("spoil", [_lose_a_message, _misname_a_schema, _send_what_is_not_there])
async def test_the_parser_finds_mistakes(scripts: Path, folder: Path, spoil: Any) -> None:
    """So its silence about ours says something. (Examples it does not compare: `tests/wire/test_asyncapi.py` does.)"""
    path = folder / "asyncapi.json"
    document = json.loads(path.read_text())
    spoil(document)
    path.write_text(json.dumps(document))
    assert (await _parse(scripts, path))["problems"]
