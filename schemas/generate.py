"""Write what follows from the code: the JSON Schemas, the AsyncAPI document, golden payloads that are missing, and the
examples in the page.

python schemas/generate.py            # write
python schemas/generate.py --check    # compare: status 1, and what differs, if something is out of date
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from parrot_mq import messages, types
from parrot_mq.messages import SCHEMA_VERSION, Message, encode, encode_json
from parrot_mq.program import transforms

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # `schemas` is documents, and not installed

from schemas import asyncapi  # noqa: E402

GOLDEN = Path("golden") / f"v{SCHEMA_VERSION}"
README = Path("README.md")
ASYNCAPI = Path("asyncapi.json")
DIALECT = "https://json-schema.org/draft/2020-12/schema"
TYPE_RULE = "Tells messages apart; may be left out where only this one is expected."
TYPE_RULES = {"task.native": "Needed on `task`: there, what does not say it is a prompt."}
OP_RULE = "Which transform it is."
WIDTH = 64
"""Hexadecimal digits in a line of a golden payload."""

_FIELD = re.compile(r"^    (\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)
_EXAMPLE = re.compile(r"(<!-- (examples/\S+) -->\n```\w+\n).*?(```\n)", re.DOTALL)


# -- JSON Schema -----------------------------------------------------------------------------------------------------


def message_types() -> list[type[Message]]:
    """All messages of the wire, by tag."""
    public = (getattr(messages, name) for name in messages.__all__)
    found = [each for each in public if inspect.isclass(each) and issubclass(each, Message) and each is not Message]
    return sorted(found, key=tag_of)


def tag_of(cls: type[Message]) -> str:
    """What `type` says on the wire."""
    return str(cls.__struct_config__.tag)


def schema_of(cls: type[Message]) -> dict[str, Any]:
    """The JSON Schema of a message, complete in itself."""
    _, components = msgspec.json.schema_components([cls], ref_template="#/$defs/{name}")
    described = {name: _describe(_without(schema, "discriminator")) for name, schema in sorted(components.items())}
    schema = {"$schema": DIALECT, "$id": f"urn:parrot-mq:{SCHEMA_VERSION}:{tag_of(cls)}", **described.pop(cls.__name__)}
    return {**schema, "$defs": described} if described else schema


def _without(schema: Any, key: str) -> Any:
    """The schema without a keyword that is OpenAPI's and not JSON Schema's: AsyncAPI has another meaning for it."""
    match schema:
        case dict():
            return {name: _without(each, key) for name, each in schema.items() if name != key}
        case list():
            return [_without(each, key) for each in schema]
    return schema


def _describe(schema: dict[str, Any]) -> dict[str, Any]:
    """Put the words of the class's docstring where they belong."""
    summary, fields = _read_docstring(schema["title"])
    properties = {
        name: {**each, "description": fields[name]} for name, each in schema["properties"].items() if name in fields
    }
    described = {**schema, "description": summary, "properties": {**schema["properties"], **properties}}
    if (kind := schema["properties"].get("type")) is not None:
        tag = kind["enum"][0]
        described["properties"]["type"] = {"const": tag, "description": TYPE_RULES.get(tag, TYPE_RULE)}
        described["required"] = [name for name in schema["required"] if name != "type"]
    if (op := schema["properties"].get("op")) is not None:
        described["properties"]["op"] = {"const": op["enum"][0], "description": OP_RULE}
    return described


def _read_docstring(name: str) -> tuple[str, dict[str, str]]:
    """What a class is, and what its fields are."""
    cls = next(getattr(home, name) for home in (messages, types, transforms) if hasattr(home, name))
    summary, _, attributes = (inspect.getdoc(cls) or "").partition("\n\nAttributes:\n")
    return summary, {field: " ".join(words.split()) for field, words in _FIELD.findall(attributes)}


# -- AsyncAPI --------------------------------------------------------------------------------------------------------


def asyncapi_document() -> dict[str, Any]:
    """The whole bus, with the golden messages as examples."""
    schemas = {tag_of(cls): schema_of(cls) for cls in message_types()}
    examples = {tag: json.loads(encode_json(message)) for tag, message in golden_messages().items()}
    return asyncapi.document(schemas, examples)


# -- golden payloads -------------------------------------------------------------------------------------------------


def golden_messages(folder: Path = HERE / GOLDEN) -> dict[str, Message]:
    """The messages of a folder by the names of their files: the tag, and for further ones of it `<tag>.2`, …"""
    found: dict[str, Message] = {}
    for message in runpy.run_path(str(folder / "messages.py"))["MESSAGES"]:
        tag = tag_of(type(message))
        num_others = sum(type(other) is type(message) for other in found.values())
        found[f"{tag}.{num_others + 1}" if num_others else tag] = message
    return found


def golden_payloads() -> dict[Path, str]:
    """What each golden file says if it is new; one that exists stays as it is for ever."""
    files: dict[Path, str] = {}
    for name, message in golden_messages().items():
        packed = encode(message).hex()
        lines = [packed[start : start + WIDTH] for start in range(0, len(packed), WIDTH)]
        files[GOLDEN / f"{name}.json"] = msgspec.json.format(encode_json(message), indent=2).decode() + "\n"
        files[GOLDEN / f"{name}.msgpack.hex"] = "\n".join(lines) + "\n"
    return files


# -- files -----------------------------------------------------------------------------------------------------------


def generated() -> dict[Path, str]:
    """Every file that follows from the code, with its content."""
    files = {Path("json") / f"{tag_of(cls)}.json": _to_json(schema_of(cls)) for cls in message_types()}
    files[ASYNCAPI] = _to_json(asyncapi_document())
    page = (HERE / README).read_text()
    files[README] = _EXAMPLE.sub(lambda match: f"{match[1]}{(HERE / match[2]).read_text()}{match[3]}", page)
    return files | {path: text for path, text in golden_payloads().items() if not (HERE / path).exists()}


def stale() -> list[Path]:
    """Schemas of messages that are no more."""
    known = generated()
    return [path for file in sorted((HERE / "json").iterdir()) if (path := file.relative_to(HERE)) not in known]


def differences() -> Iterator[str]:
    """What `main` would change, as diffs that name the file."""
    for path, text in generated().items():
        file = HERE / path
        found = file.read_text() if file.exists() else ""
        if found != text:
            name = f"{HERE.name}/{path.as_posix()}"
            yield "".join(difflib.unified_diff(found.splitlines(True), text.splitlines(True), name, f"{name} (new)"))
    for path in stale():
        yield f"{HERE.name}/{path.as_posix()}: no message has this tag\n"
    for tag in sorted({tag_of(cls) for cls in message_types()} - golden_messages().keys()):
        yield f"{HERE.name}/{GOLDEN.as_posix()}/messages.py: add one message of the new type {tag!r}\n"


def write() -> None:
    """Bring all files up to date."""
    for path in stale():
        (HERE / path).unlink()
    for path, text in generated().items():
        (HERE / path).parent.mkdir(parents=True, exist_ok=True)
        (HERE / path).write_text(text)


def _to_json(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Parse the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if something is out of date")
    if not parser.parse_args().check:
        write()
    found = list(differences())
    sys.stdout.writelines(found)
    if found:
        print("run `python schemas/generate.py`, look at what it changed, and commit it", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
