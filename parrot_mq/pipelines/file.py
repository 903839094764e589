"""Pipelines in TOML files; a mistake is told with its line and what to write instead."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from parrot_mq.errors import ParrotError, PipelineError
from parrot_mq.pipelines.mapping import Field
from parrot_mq.pipelines.pipeline import Limits, Pipeline, Program, Result, Source
from parrot_mq.pipelines.steps import Step, find_function, load_object, steps_program
from parrot_mq.program.transforms import makes_list

__all__ = ["find_line", "load_pipeline"]

_AT = re.compile(r"(.*?)(?: - at `\$\.?(.*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_MISSING = re.compile(r"Object missing required field `(.*)`")
_INDEX = re.compile(r"\[(\d+|\.\.\.)\]")
_TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_HEADER = re.compile(r"\s*\[{1,2}\s*([^\]]+?)\s*\]{1,2}\s*(?:#.*)?")
_KEY = re.compile(r"""\s*(?:"([^"]+)"|'([^']+)'|([A-Za-z0-9_.-]+))\s*=""")


class _StepTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    function: str
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    map: bool = False


class _ResultTable(Result, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fields: dict[str, str] = msgspec.field(default_factory=dict)


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    source: Source
    inputs: dict[str, str | Field]
    steps: list[_StepTable]
    result: _ResultTable
    limits: Limits = Limits()
    model: str = ""


_KEYS: Mapping[str, Collection[str]] = {
    "": _Document.__struct_fields__,
    "source": Source.__struct_fields__,
    "result": _ResultTable.__struct_fields__,
    "limits": Limits.__struct_fields__,
    "steps": _StepTable.__struct_fields__,
    "inputs": Field.__struct_fields__,
}
"""What each table may have."""


def load_pipeline(target: str) -> Pipeline:
    """Load what `FILE.toml`, `module:name` or `FILE.py:name` says.

    Raises:
        PipelineError: There is a mistake in it; says where, and the remedy.
    """
    if target.endswith(".toml"):
        return _File(Path(target)).load()
    found = load_object(target, target, Path.cwd())
    if not isinstance(found, Pipeline):
        remedy = "name one that is made by `@pipeline`, or a TOML file"
        raise PipelineError(where=target, problem="it is no pipeline", remedy=remedy)
    return found


class _File:
    """One file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text = ""

    def load(self) -> Pipeline:
        document = self._convert(self._parse())
        inputs = {name: self._field(name, each) for name, each in document.inputs.items()}
        known = dict.fromkeys(document.inputs, False)
        steps = [self._step(index, table, known) for index, table in enumerate(document.steps)]
        if not steps:
            raise self._mistake("steps", "there is no step", "write a table `[[steps]]` with a `function`")
        fields = document.result.fields or {name: name for step in steps for name in step.writes.values()}
        for field, variable in fields.items():
            if variable not in known:
                raise self._mistake(f"result.fields.{field}", f"nobody writes {variable!r}", _choose(variable, known))
        return self._pipeline(document, inputs, steps_program(steps, fields))

    def _field(self, name: str, declared: str | Field) -> Field:
        try:
            return Field(pointer=declared) if isinstance(declared, str) else declared
        except ValueError as error:
            remedy = "see RFC 6901, or write '' for the whole event"
            raise self._mistake(f"inputs.{name}", str(error), remedy) from error

    def _pipeline(self, document: _Document, inputs: Mapping[str, Field], program: Program) -> Pipeline:
        result = {name: getattr(document.result, name) for name in Result.__struct_fields__}
        try:
            return Pipeline(
                name=document.name,
                source=document.source,
                inputs=inputs,
                program=program,
                result=Result(**result),
                limits=document.limits,
                model=document.model,
            )
        except PipelineError as error:
            raise self._mistake("name", error.message, "mend the file") from error
        except ParrotError as error:
            raise self._mistake("name", error.message, "choose another") from error

    def _parse(self) -> dict[str, Any]:
        try:
            self._text = self._path.read_text(encoding="utf-8")
            return tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            found = _TOML_LINE.search(str(error))
            where = f"{self._path}:{found[1]}" if found else f"{self._path}:{self._text.count(chr(10)) + 1}"
            problem = f"it is not TOML: {_TOML_LINE.sub('', str(error)).strip()}"
            raise PipelineError(where=where, problem=problem, remedy="texts are quoted, tables are `[name]`") from error
        except UnicodeDecodeError as error:
            raise PipelineError(where=str(self._path), problem="it is not UTF-8", remedy="save it as UTF-8") from error
        except OSError as error:
            problem = f"it cannot be read: {error.strerror}"
            raise PipelineError(where=str(self._path), problem=problem, remedy="name a TOML file") from error

    def _convert(self, document: dict[str, Any]) -> _Document:
        try:
            return msgspec.convert(document, _Document)
        except msgspec.ValidationError as error:
            raise self._explain(str(error), document) from error

    def _explain(self, sentence: str, document: Mapping[str, Any]) -> PipelineError:
        """Say where a value of the wrong form is, and what it should be."""
        found = _AT.fullmatch(sentence)
        problem, place = (found[1], found[2] or "") if found else (sentence, "")
        table = _INDEX.sub("", place).partition(".")[0]
        if unknown := _UNKNOWN.fullmatch(problem):
            place = _name_entry(document, place, unknown[1])
            remedy = _choose(unknown[1], _KEYS.get(table, ()))
            return self._mistake(_join(place, unknown[1]), f"unknown key {unknown[1]!r}", remedy)
        if missing := _MISSING.fullmatch(problem):
            within = f"table `{table}`" if table else "the file"
            return self._mistake(place, f"{within} has no {missing[1]!r}", f"add `{missing[1]} = …`")
        place = _join(place, _blame(document.get(place), problem))
        return self._mistake(place, problem, f"mend `{place}`" if place else "mend it")

    def _step(self, index: int, table: _StepTable, known: dict[str, bool]) -> Step:
        """Check a step against its function and what is written before it.

        Args:
            index: Which step it is.
            table: What the file says of it.
            known: The variables that are written before, and whether each is a list; what it writes is added.
        """
        place = f"steps[{index}]"
        function = find_function(table.function, self._where(f"{place}.function"), self._path.parent)
        spec = function.spec
        self._check_keys(f"{place}.inputs", table.inputs, spec.separators, f"`{spec.name}` has no input")
        self._check_keys(f"{place}.outputs", table.outputs, spec.outputs, f"`{spec.name}` has no output")
        reads = {name: table.inputs.get(name, name) for name in spec.separators}
        reads = {n: v for n, v in reads.items() if n in table.inputs or v in known or n not in spec.defaults}
        for name, variable in reads.items():
            if variable not in known:
                problem = f"nobody writes {variable!r}, which `{spec.name}` reads as {name!r}"
                where = f"{place}.inputs.{name}" if name in table.inputs else f"{place}.function"
                raise self._mistake(where, problem, _choose(variable, known))
        if table.map and not any(known[variable] for variable in reads.values()):
            remedy = "read an output whose transforms end in a list, or what another map writes"
            raise self._mistake(f"{place}.map", f"`{spec.name}` reads no list that it could go through", remedy)
        writes = {name: table.outputs.get(name, name) for name in spec.outputs}
        for output, variable in writes.items():
            if variable in known:
                remedy = f'name it anew: outputs = {{ {next(iter(writes))} = "…" }}'
                raise self._mistake(f"{place}.outputs", f"{variable!r} is written twice", remedy)
            known[variable] = table.map or makes_list(spec.transforms_of(output))
        return Step(function=function, reads=reads, writes=writes, is_map=table.map)

    def _check_keys(self, place: str, keys: Collection[str], known: Collection[str], problem: str) -> None:
        for name in keys:
            if name not in known:
                raise self._mistake(f"{place}.{name}", f"{problem} {name!r}", _choose(name, known))

    def _where(self, place: str) -> str:
        return f"{self._path}:{find_line(self._text, place)}"

    def _mistake(self, place: str, problem: str, remedy: str) -> PipelineError:
        return PipelineError(where=self._where(place), problem=problem, remedy=remedy)


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place and key else place or key


def _choose(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there is {', '.join(sorted(known))}" if known else "there is nothing that could be meant"


def _name_entry(document: Mapping[str, Any], place: str, key: str) -> str:
    """The name of the entry that has an unknown key, where only its table is known."""
    table = place.removesuffix("[...]")
    if table == place:
        return place
    entries = document.get(table, {}).items()
    return next((f"{table}.{name}" for name, entry in entries if isinstance(entry, dict) and key in entry), table)


def _blame(table: object, problem: str) -> str:
    """The key of a table that a problem is about, if it names the key or quotes its value."""
    if not isinstance(table, dict):
        return ""
    quoted = (key for key, value in table.items() if value and isinstance(value, str) and repr(value) in problem)
    named = (key for key in table if problem.startswith(f"{key} "))
    return next(named, next(quoted, ""))


def find_line(text: str, place: str) -> int:
    """The line of a key such as `source.stream` or `steps[1].function`; of its table, if the key is not there.

    Inline tables count as the line of their key.
    """
    steps = [each for each in re.split(r"\.|(?=\[)", place) if each]
    path: list[str] = []
    index = 0
    for step in steps:
        if step.startswith("["):
            index = int(step[1:-1]) if step[1:-1].isdigit() else 0
        else:
            path.append(step)
    best_line, best_depth = 1, 0
    table: list[str] = []
    num_seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.fullmatch(line):
            table = [part.strip().strip("\"'") for part in header[1].split(".")]
            if line.lstrip().startswith("[["):
                num_seen[header[1]] = num_seen.get(header[1], -1) + 1
            here = table
        elif key := _KEY.match(line):
            here = [*table, *(key[3].split(".") if key[3] else [key[1] or key[2]])]
        else:
            continue
        is_its_step = not table or num_seen.get(table[0], index) == index
        if is_its_step and here == path[: len(here)] and len(here) > best_depth:
            best_line, best_depth = number, len(here)
    return best_line
