"""The AsyncAPI document, read by the official parser and rendered by the official component: nobody here wrote them."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.node import EXAMPLES, INSTALL_TIMEOUT_S, Line, script_folder

COMPUTE_S = 150.0

pytestmark = [pytest.mark.node, pytest.mark.timeout(INSTALL_TIMEOUT_S + COMPUTE_S)]

SCHEMAS = EXAMPLES.parents[1]
SCRIPTS = SCHEMAS / "page"


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


def _run(script: Path, *arguments: Path) -> Line:
    """What a script prints. It computes for seconds, and longer where others do, too."""
    command = ["node", str(script), *(str(each) for each in arguments)]
    done = subprocess.run(command, check=True, timeout=COMPUTE_S, capture_output=True)
    line: Line = json.loads(done.stdout)
    return line


@pytest.fixture(scope="module")
def parsed(scripts: Path) -> Line:
    """What the parser finds in the document."""
    return _run(scripts / "parse.mjs", SCHEMAS / "asyncapi.json")


def test_the_document_is_valid_and_complete(parsed: Line) -> None:
    assert parsed["problems"] == []
    understood, written = parsed["understood"], json.loads((SCHEMAS / "asyncapi.json").read_text())
    assert understood["version"].startswith("3.")
    assert len(understood["channels"]) == len(written["channels"])
    assert sorted(understood["operations"]) == sorted(written["operations"])


def test_messages_are_the_json_schemas(parsed: Line) -> None:
    """The parser has followed the references, also those inside the schemas."""
    payloads = parsed["understood"]["payloads"]
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
def test_the_parser_finds_mistakes(scripts: Path, folder: Path, spoil: Any) -> None:
    """So its silence about ours says something. (Examples it does not compare: `tests/wire/test_asyncapi.py` does.)"""
    path = folder / "asyncapi.json"
    document = json.loads(path.read_text())
    spoil(document)
    path.write_text(json.dumps(document))
    assert _run(scripts / "parse.mjs", path)["problems"]


# -- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_shows_everything(scripts: Path, tmp_path: Path) -> None:
    """Every subject, every operation, every message with what it is and its example, also without scripts."""
    target = tmp_path / "page.html"
    assert _run(scripts / "render.mjs", SCHEMAS / "asyncapi.json", target) == {"written": str(target)}
    shown = _words(re.sub(r"<(style|script)>.*?</\1>|<[^>]*>", " ", target.read_text(), flags=re.DOTALL))
    document = json.loads((SCHEMAS / "asyncapi.json").read_text())
    for channel in document["channels"].values():
        assert _words(channel["address"] or "") in shown
        assert _words(channel["description"]) in shown
    for operation_id, operation in document["operations"].items():
        assert _words(operation_id) in shown
        assert _words(operation["summary"]) in shown
    for name, message in document["components"]["messages"].items():
        assert _words(f"Message ID {name}") in shown
        assert _words(message["summary"]) in shown
        for example in message.get("examples", []):
            assert _words(_as_shown(example["payload"])) in shown, name


def _as_shown(payload: Any) -> str:
    """A text as it is, a document as JavaScript writes it: whole numbers without a point."""
    written = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
    return re.sub(r"(\d)\.0\b", r"\1", written)


def _words(text: str) -> str:
    """What stands there, however it is laid out and marked up."""
    return re.sub(r"[\s`\\]+", "", html.unescape(text))
