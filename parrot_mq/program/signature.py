"""Reading a Python function as a semantic function: its parameters are the roles, its docstring is the template."""

from __future__ import annotations

import dis
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from parrot_mq.errors import CallError, SignatureError, TemplateError
from parrot_mq.program.diagnostics import point_at
from parrot_mq.program.parameters import Output
from parrot_mq.program.plan import plan_outputs
from parrot_mq.program.spec import CallableSpec, check_input, place_of, read_annotation, read_default, read_hints
from parrot_mq.program.template import Template, parse_template
from parrot_mq.program.transforms import Transform
from parrot_mq.program.values import InputText
from parrot_mq.types import Sampling

__all__ = ["FunctionSpec", "read_function"]

_ANNOTATE = "annotate inputs as `Input` and outputs as `Output`"
_EMPTY_BODY = frozenset({"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST", "COPY_FREE_VARS"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSpec(CallableSpec):
    """What a semantic function says.

    Attributes:
        template: Its docstring.
        outputs: The outputs, in the order of the template, and how each is generated.
        transforms: What is made of the text of outputs, where the function says so.
    """

    template: Template
    outputs: Mapping[str, Sampling]
    transforms: Mapping[str, tuple[Transform, ...]]

    def transforms_of(self, output: str) -> tuple[Transform, ...]:
        """What is made of the text of an output."""
        return self.transforms.get(output, ())

    def argument_error(self, name: str, problem: str) -> CallError:
        """An error about an argument: the function, what is wrong, and the line of the template that uses it."""
        placeholder = next(each for each in self.template.placeholders if each.name == name)
        source, start = self.template.source, placeholder.position
        shown = point_at(source, start, source.find("}}", start) + 2)
        return CallError(f"`{self}`: {problem}\n{shown}", function=self.name, argument=name)


def read_function(function: Callable[..., object]) -> FunctionSpec:
    """Read roles and template of a function.

    Raises:
        TemplateError: The function cannot be a semantic function. The message names file and line, and shows the
            place in the template.
    """
    try:
        return _read(function)
    except (SignatureError, TemplateError) as error:
        raise TemplateError(f"semantic function {place_of(function)}: {error.message}", **error.facts) from None


def _read(function: Callable[..., object]) -> FunctionSpec:
    if not isinstance(function, types.FunctionType):
        raise TemplateError("it is not a plain function; decorate a function written with `def`")
    docstring = _docstring(function)
    _check_body(function)
    signature = inspect.signature(function)
    hints = read_hints(function)
    separators: dict[str, str] = {}
    defaults: dict[str, InputText] = {}
    outputs: dict[str, Output] = {}
    for parameter in signature.parameters.values():
        base, separator = read_annotation(parameter, hints, kind="semantic", remedy=_ANNOTATE)
        if base is Output:
            outputs[parameter.name] = _output(parameter)
        else:
            check_input(parameter, base, remedy=_ANNOTATE)
            separators[parameter.name] = separator
            defaults |= _default(parameter)
    template = parse_template(docstring)
    plans = plan_outputs(template, separators, outputs)
    return FunctionSpec(
        name=function.__name__,
        signature=signature,
        template=template,
        separators=separators,
        defaults=defaults,
        outputs={plan.output: outputs[plan.output].sampling for plan in plans},
        objectives={name: output.objective for name, output in outputs.items() if output.objective is not None},
        transforms={name: output.transforms for name, output in outputs.items() if output.transforms},
    )


def _docstring(function: types.FunctionType) -> str:
    if function.__doc__ and function.__doc__.strip():
        return inspect.cleandoc(function.__doc__)
    if sys.flags.optimize >= 2:
        raise TemplateError("its docstring, the template, is gone: python -OO (PYTHONOPTIMIZE=2) removes it; use -O")
    raise TemplateError(
        "it has no docstring; the docstring is the template (it has to be a plain string literal, not an f-string)"
    )


def _check_body(function: types.FunctionType) -> None:
    if function.__code__.co_flags & (inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR):
        raise TemplateError(
            "it is a coroutine or a generator; write a plain `def`: calling it returns a variable at once"
        )
    for instruction in dis.get_instructions(function):
        loads_value = instruction.opname in ("LOAD_CONST", "RETURN_CONST") and instruction.argval is not None
        if loads_value or instruction.opname not in _EMPTY_BODY:
            raise TemplateError("its body has code, which would never run: the docstring is all of it; remove the code")


def _output(parameter: inspect.Parameter) -> Output:
    if parameter.default is parameter.empty:
        return Output()
    if not isinstance(parameter.default, Output):
        remedy = f"write `{parameter.name}: Output = Output(max_tokens=…)`, or annotate it `Input`"
        raise TemplateError(f"the output `{parameter.name}` has a default that is no `Output(…)`; {remedy}")
    return parameter.default


def _default(parameter: inspect.Parameter) -> dict[str, InputText]:
    if isinstance(parameter.default, Output):
        remedy = f"write `{parameter.name}: Output = Output(…)`"
        raise TemplateError(
            f"the parameter `{parameter.name}` has an `Output(…)` but is annotated as an input; {remedy}"
        )
    return read_default(parameter)
