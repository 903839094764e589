"""From a call to a semantic function: constants stand in its template, the rest are its inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import lru_cache

from benchmarks.workloads.programs import Call, Read, Text, write_text
from parrot_mq import Input, Output, SemanticVariable, Session, semantic_function
from parrot_mq.program import SemanticFunction
from parrot_mq.types import Objective

__all__ = ["make_function", "submit"]


Value = SemanticVariable | str


def submit(call: Call, values: Mapping[str, Value], session: Session) -> SemanticVariable:
    """Call it as a program does; `values` are what it reads."""
    function, inputs = make_function(call, values)
    return function.using(session=session)(**inputs)


def make_function(call: Call, values: Mapping[str, Value]) -> tuple[SemanticFunction[...], dict[str, Value]]:
    """The function that a program would have, and what it passes in."""
    template: list[str] = []
    inputs: dict[str, Value] = {}
    for index, part in enumerate(call.prompt):
        if isinstance(part, Text) and not part.is_input:
            template.append(write_text(part))
            continue
        inputs[f"input_{index}"] = values[part.output] if isinstance(part, Read) else write_text(part)
        template.append(f"{{{{input_{index}}}}}")
    objective = None if call.tpot_ms is None else Objective(tpot_ms=call.tpot_ms)
    return _function("".join(template), tuple(inputs), call.num_output_tokens, objective), inputs


@lru_cache(maxsize=256)
def _function(
    template: str, inputs: tuple[str, ...], num_tokens: int, objective: Objective | None
) -> SemanticFunction[...]:
    """What a decorated function with this signature and docstring is."""

    def generate() -> None:
        """Replaced by the template."""

    output = Output(max_tokens=num_tokens, min_tokens=num_tokens, ignore_eos=True, objective=objective)
    parameter = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, parameter, annotation=Input) for name in inputs]
    parameters.append(inspect.Parameter("output", parameter, annotation=Output, default=output))
    generate.__doc__ = template + "{{output}}"
    generate.__annotations__ = {**{each.name: each.annotation for each in parameters}, "return": None}
    generate.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return semantic_function(generate)
