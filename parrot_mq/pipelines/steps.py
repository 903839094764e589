"""A graph of semantic functions, declared: each step reads variables and writes variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parrot_mq.errors import PipelineError
from parrot_mq.loading import find_in, load_module
from parrot_mq.pipelines.pipeline import AnyFunction, Program
from parrot_mq.program import NativeFunction, SemanticFunction, SemanticVariable

__all__ = ["Step", "find_function", "load_object", "steps_program"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call.

    Attributes:
        function: What is called.
        reads: The variable for each input of the function.
        writes: The variable for each output.
        is_map: Whether it is called for each item of the lists that it reads.
    """

    function: AnyFunction
    reads: Mapping[str, str]
    writes: Mapping[str, str]
    is_map: bool = False


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
            outputs = step.function.map_outputs(**inputs) if step.is_map else step.function.outputs(**inputs)
            for output, variable in zip(step.function.spec.outputs, outputs, strict=True):
                variables[step.writes[output]] = variable
        return {name: variables[variable] for name, variable in fields.items()}

    return program


def find_function(reference: str, where: str, folder: Path) -> AnyFunction:
    """The semantic or native function that `module:name` says; modules beside the file are found, too.

    Raises:
        PipelineError: There is none.
    """
    found = load_object(reference, where, folder)
    if not isinstance(found, SemanticFunction | NativeFunction):
        remedy = "name one that is made by `@semantic_function` or `@native_function`"
        raise PipelineError(where=where, problem=f"{reference!r} is no semantic or native function", remedy=remedy)
    return found


def load_object(reference: str, where: str, folder: Path) -> object:
    """What `module:name` or `FILE.py:name` says.

    Raises:
        PipelineError: There is no such module, or nothing of this name in it.
    """
    module_name, _, name = reference.rpartition(":")

    def complain(problem: str, remedy: str) -> PipelineError:
        return PipelineError(where=where, problem=problem, remedy=remedy)

    if not module_name or not name:
        raise complain(f"{reference!r} names no function", "write `module:name`, such as `triage:classify`")
    return find_in(load_module(module_name, folder, complain), name, complain)
