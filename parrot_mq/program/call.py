"""A call: a semantic function with its inputs, not yet submitted."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from parrot_mq.errors import CallError
from parrot_mq.program.diagnostics import point_at
from parrot_mq.program.parameters import DEFAULT_SEPARATOR
from parrot_mq.program.signature import FunctionSpec
from parrot_mq.program.values import InputText, check_value, variables_in

__all__ = ["Call", "bind"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Call:
    """What is submitted. Each field has its place in a `PromptTask`.

    Attributes:
        spec: The function.
        inputs: What fills each input placeholder; every input is there.
        name: Name of the function, for people and tools.
        model: Who generates; empty means the one model that is served.
        timeout_s: Seconds that the outputs may take; None means what the session says.
        names: Names chosen for output variables; the session makes up the others.
    """

    spec: FunctionSpec
    inputs: Mapping[str, InputText]
    name: str
    model: str = ""
    timeout_s: float | None = None
    names: Mapping[str, str]

    @property
    def template(self) -> str:
        """The template's source, as it goes over the wire."""
        return self.spec.template.source

    @property
    def separators(self) -> dict[str, str]:
        """What joins the items of each list input, where it is not a line break."""
        return {
            name: self.spec.separators[name]
            for name, value in self.inputs.items()
            if isinstance(value, tuple) and self.spec.separators[name] != DEFAULT_SEPARATOR
        }

    def __repr__(self) -> str:
        return f"<Call {self.spec}>"  # without the inputs: prompts may be private and long

    def check_session(self, tenant: str, session: str) -> None:
        """Check that the call can run in a session.

        Raises:
            CallError: An input is a variable of another session.
        """
        for name, value in self.inputs.items():
            for variable in variables_in(value):
                if (variable.session.tenant, variable.session.name) != (tenant, session):
                    problem = f"{variable!r} belongs to another session than the call, {session!r}"
                    remedy = "await it and pass its text, or call in its session"
                    raise _argument_error(self.spec, name, f"{problem}; {remedy}")


def bind(spec: FunctionSpec, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, InputText]:
    """Match arguments with the inputs of a function.

    Raises:
        CallError: An argument is missing, unknown, given twice, meant for an output, or of a type that is no text.
    """
    try:
        given = spec.signature.bind_partial(*args, **kwargs).arguments
    except TypeError as error:
        raise CallError(f"`{spec}`: {error}; {_suggest(spec, kwargs)}", function=spec.name) from None
    for name in given:
        if name in spec.outputs:
            problem = f"`{name}` is an output: the model writes it, so it takes no argument"
            raise _argument_error(spec, name, f"{problem}; the call returns its variable")
    missing = [name for name in spec.separators if name not in given and name not in spec.defaults]
    if missing:
        raise _argument_error(spec, missing[0], f"missing argument: {', '.join(f'`{name}`' for name in missing)}")
    return {name: _value(spec, name, given) for name in spec.separators}


def _suggest(spec: FunctionSpec, kwargs: Mapping[str, object]) -> str:
    unknown = [name for name in kwargs if name not in spec.signature.parameters]
    close = difflib.get_close_matches(unknown[0], spec.separators, n=1) if unknown else []
    meant = f"did you mean `{close[0]}`? " if close else ""
    return f"{meant}its inputs: {', '.join(spec.separators) or 'none'}"


def _value(spec: FunctionSpec, name: str, given: Mapping[str, object]) -> InputText:
    if name not in given:
        return spec.defaults[name]
    try:
        return check_value(given[name])
    except CallError as error:
        raise _argument_error(spec, name, f"argument `{name}`: {error.message}") from None


def _argument_error(spec: FunctionSpec, name: str, problem: str) -> CallError:
    """An error about an argument: the function, what is wrong, and the line of the template that uses it."""
    placeholder = next(each for each in spec.template.placeholders if each.name == name)
    source, start = spec.template.source, placeholder.position
    shown = point_at(source, start, source.find("}}", start) + 2)
    return CallError(f"`{spec}`: {problem}\n{shown}", function=spec.name, argument=name)
