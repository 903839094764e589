"""A graph of semantic functions, declared: each step reads variables and writes variables."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parrot_mq.errors import PipelineError
from parrot_mq.pipelines.pipeline import Program
from parrot_mq.program import SemanticFunction, SemanticVariable

__all__ = ["Step", "find_function", "load_object", "steps_program"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call.

    Attributes:
        function: What is called.
        reads: The variable for each input of the function.
        writes: The variable for each output.
    """

    function: SemanticFunction[...]
    reads: Mapping[str, str]
    writes: Mapping[str, str]


def steps_program(steps: Sequence[Step], fields: Mapping[str, str]) -> Program:
    """A program that makes the calls of all steps at once, and returns variables by the names in `fields`.

    Args:
        steps: In an order in which each variable is written before it is read.
        fields: The variable for each field of the result.
    """

    async def program(**texts: str) -> dict[str, Any]:
        variables: dict[str, str | SemanticVariable] = dict(texts)
        for step in steps:
            inputs = {name: variables[variable] for name, variable in step.reads.items()}
            outputs = step.function.outputs(**inputs)
            for output, variable in zip(step.function.spec.outputs, outputs, strict=True):
                variables[step.writes[output]] = variable
        return {name: variables[variable] for name, variable in fields.items()}

    return program


def find_function(reference: str, where: str, folder: Path) -> SemanticFunction[...]:
    """The semantic function that `module:name` says; modules beside the file are found, too.

    Raises:
        PipelineError: There is none.
    """
    found = load_object(reference, where, folder)
    if not isinstance(found, SemanticFunction):
        remedy = "name one that is made by `@semantic_function`"
        raise PipelineError(where=where, problem=f"{reference!r} is no semantic function", remedy=remedy)
    return found


def load_object(reference: str, where: str, folder: Path) -> object:
    """What `module:name` or `FILE.py:name` says.

    Raises:
        PipelineError: There is no such module, or nothing of this name in it.
    """
    module_name, _, name = reference.rpartition(":")
    if not module_name or not name:
        remedy = "write `module:name`, such as `triage:classify`"
        raise PipelineError(where=where, problem=f"{reference!r} names no function", remedy=remedy)
    if module_name.endswith(".py"):
        path = (folder / module_name).resolve()
        folder, module_name = path.parent, path.stem
    module = _import(module_name, where, folder)
    if not hasattr(module, name):
        known = [each for each in vars(module) if not each.startswith("_")]
        there = ", ".join(known[:12]) or "nothing"
        problem = f"there is no {name!r} in module {module_name!r}"
        raise PipelineError(where=where, problem=problem, remedy=f"there is {there}")
    return getattr(module, name)


def _import(module_name: str, where: str, folder: Path) -> object:
    if str(folder.resolve()) not in sys.path:
        sys.path.insert(0, str(folder.resolve()))
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        problem = f"there is no module {error.name!r}"
        raise PipelineError(where=where, problem=problem, remedy=f"install it, or put it into {folder}") from error
    except Exception as error:
        problem = f"module {module_name!r} cannot be imported: {type(error).__name__}: {error}"
        raise PipelineError(where=where, problem=problem, remedy="mend it") from error
