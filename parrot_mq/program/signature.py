"""Reading a Python function as a semantic function: its parameters are the roles, its docstring is the template."""

from __future__ import annotations

import dis
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from parrot_mq.errors import CallError, TemplateError
from parrot_mq.program.parameters import DEFAULT_SEPARATOR, Input, Output, Separator
from parrot_mq.program.plan import plan_outputs
from parrot_mq.program.template import Template, parse_template
from parrot_mq.program.values import InputText, check_value
from parrot_mq.program.variable import SemanticVariable
from parrot_mq.types import Objective, Sampling

__all__ = ["FunctionSpec", "read_function"]

_ANNOTATE = "annotate inputs as `Input` and outputs as `Output`"
_EMPTY_BODY = frozenset({"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST", "COPY_FREE_VARS"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSpec:
    """What a semantic function says.

    Attributes:
        name: The function's name.
        signature: Its Python signature.
        template: Its docstring.
        separators: The inputs, and what joins the items of each when it is a list.
        defaults: Texts of the inputs that may be left out.
        outputs: The outputs, in the order of the template, and how each is generated.
        objectives: What is wanted of outputs, where the function says so.
    """

    name: str
    signature: inspect.Signature
    template: Template
    separators: Mapping[str, str]
    defaults: Mapping[str, InputText]
    outputs: Mapping[str, Sampling]
    objectives: Mapping[str, Objective]

    def __str__(self) -> str:
        inputs = [name + ("=…" if name in self.defaults else "") for name in self.separators]
        return f"{self.name}({', '.join(inputs)})"


def read_function(function: Callable[..., object]) -> FunctionSpec:
    """Read roles and template of a function.

    Raises:
        TemplateError: The function cannot be a semantic function. The message names file and line, and shows the
            place in the template.
    """
    try:
        return _read(function)
    except TemplateError as error:
        code = getattr(function, "__code__", None)
        place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
        name = getattr(function, "__name__", repr(function))
        raise TemplateError(f"semantic function `{name}`{place}: {error.message}", **error.facts) from None


def _read(function: Callable[..., object]) -> FunctionSpec:
    if not isinstance(function, types.FunctionType):
        raise TemplateError("it is not a plain function; decorate a function written with `def`")
    docstring = _docstring(function)
    _check_body(function)
    signature = inspect.signature(function)
    hints = _hints(function)
    separators: dict[str, str] = {}
    defaults: dict[str, InputText] = {}
    outputs: dict[str, Output] = {}
    for parameter in signature.parameters.values():
        _check_kind(parameter)
        base, separator = _split_annotation(parameter, hints)
        if base is Output:
            outputs[parameter.name] = _output(parameter)
        else:
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


def _hints(function: types.FunctionType) -> dict[str, object]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # annotations may be any code
        raise TemplateError(
            f"its annotations cannot be resolved ({error}); import the names at the top of the module, "
            f"outside `if TYPE_CHECKING:`"
        ) from error


def _check_kind(parameter: inspect.Parameter) -> None:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise TemplateError(f"it has `{parameter}`; name every input and output as a parameter of its own")


def _split_annotation(parameter: inspect.Parameter, hints: Mapping[str, object]) -> tuple[object, str]:
    """The annotation without extras, checked, and the separator of a list input."""
    if parameter.name not in hints:
        hint = " (methods cannot be semantic functions)" if parameter.name in ("self", "cls") else ""
        raise TemplateError(f"parameter `{parameter.name}` has no annotation{hint}; {_ANNOTATE}")
    base, separator = hints[parameter.name], DEFAULT_SEPARATOR
    if typing.get_origin(base) is typing.Annotated:
        base, *extras = typing.get_args(base)
        separator = next((each.text for each in extras if isinstance(each, Separator)), separator)
    if base is not Output and not _is_text(base):
        shown = getattr(base, "__name__", None) or str(base)
        raise TemplateError(
            f"parameter `{parameter.name}` is annotated `{shown}`, which is neither text nor variable; {_ANNOTATE}"
        )
    return base, separator


def _is_text(hint: object) -> bool:
    """True for `Input` and every part of it: str, a variable, lists and unions of these."""
    if hint in (Input, str, SemanticVariable):
        return True
    args = [each for each in typing.get_args(hint) if each is not Ellipsis]
    is_known = typing.get_origin(hint) in (typing.Union, types.UnionType, list, tuple, Sequence)
    return is_known and bool(args) and all(map(_is_text, args))


def _output(parameter: inspect.Parameter) -> Output:
    if parameter.default is parameter.empty:
        return Output()
    if not isinstance(parameter.default, Output):
        remedy = f"write `{parameter.name}: Output = Output(max_tokens=…)`, or annotate it `Input`"
        raise TemplateError(f"the output `{parameter.name}` has a default that is no `Output(…)`; {remedy}")
    return parameter.default


def _default(parameter: inspect.Parameter) -> dict[str, InputText]:
    if parameter.default is parameter.empty:
        return {}
    if isinstance(parameter.default, Output):
        remedy = f"write `{parameter.name}: Output = Output(…)`"
        raise TemplateError(
            f"the parameter `{parameter.name}` has an `Output(…)` but is annotated as an input; {remedy}"
        )
    try:
        return {parameter.name: check_value(parameter.default)}
    except CallError as error:
        raise TemplateError(f"the default of `{parameter.name}` cannot be used: {error.message}") from None
