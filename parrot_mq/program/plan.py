"""From a template and the roles of its placeholders to one prompt per output.

A prompt with several outputs is a chain: the prompt of an output is everything before it, the texts of earlier
outputs included. So the context of each output is the prefix of the next one. Text after the last output is dropped:
no output could depend on it.

Source: Parrot, OSDI'24, section 4.1 (input and output placeholders) and 4.2 (the requests of one prompt).
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from parrot_mq.errors import TemplateError
from parrot_mq.program.diagnostics import place_error, template_error
from parrot_mq.program.template import PLACEHOLDER_RULE, Part, Placeholder, Template, is_placeholder_name

__all__ = ["MAX_PROMPT_PARTS", "OutputPlan", "plan_outputs"]

MAX_PROMPT_PARTS: Final = 100_000
"""Most parts that the prompts of one template have together. They repeat each other, so the sum grows as a square."""

MAX_SUGGESTED: Final = 100


class Role(enum.Enum):
    """What a placeholder is for."""

    INPUT = enum.auto()
    """Read: a text or variable stands here."""
    OUTPUT = enum.auto()
    """Generated: the model writes here."""


Roles = Mapping[str, Role]


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """One output and what stands before it.

    Attributes:
        output: Name of the output's placeholder.
        template_parts: The parts of the whole template, shared by all its outputs.
        num_parts: How many of them come before the output.
    """

    output: str
    template_parts: tuple[Part, ...]
    num_parts: int

    @property
    def parts(self) -> tuple[Part, ...]:
        """The prompt: texts, inputs, and earlier outputs, which are read here like inputs."""
        return self.template_parts[: self.num_parts]

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the placeholders that the prompt reads, each once, in order of first use."""
        return tuple(dict.fromkeys(part.name for part in self.parts if isinstance(part, Placeholder)))


def plan_outputs(template: Template, inputs: Collection[str], outputs: Collection[str]) -> tuple[OutputPlan, ...]:
    """Check that placeholders and roles fit, and cut the template before each output.

    Args:
        template: The parsed template.
        inputs: Names of the placeholders that are read.
        outputs: Names of the placeholders that are generated; their order does not matter, the template's does.

    Returns:
        One plan per output, in the order of the template.

    Raises:
        TemplateError: A placeholder is undeclared, a declared name is missing, an output appears twice or next to
            another or with nothing before it, an input is only used where nothing reads it, or there is no output,
            or too many. The message shows the place.
    """
    roles = _roles(template, inputs, outputs)
    _check_placeholders(template, roles)
    _check_outputs(template, roles)
    plans = tuple(
        OutputPlan(part.name, template.parts, index)
        for index, part in enumerate(template.parts)
        if isinstance(part, Placeholder) and roles[part.name] is Role.OUTPUT
    )
    _check_inputs_are_read(template, roles, plans[-1].num_parts)
    _check_size(template, plans)
    return plans


def _roles(template: Template, inputs: Collection[str], outputs: Collection[str]) -> dict[str, Role]:
    """The role of every declared name."""
    roles = dict.fromkeys(inputs, Role.INPUT) | dict.fromkeys(outputs, Role.OUTPUT)
    for name in roles:
        if not is_placeholder_name(name):
            problem = f"the name {name[:80]!r} cannot be a placeholder"
            raise template_error(template.source, problem=problem, remedy=PLACEHOLDER_RULE)
    if both := [name for name in inputs if roles[name] is Role.OUTPUT]:
        problem = f"`{both[0]}` is declared as an input and as an output"
        raise template_error(template.source, problem=problem, remedy="give the two different names")
    if not outputs:
        remedy = "mark what the model writes with an output placeholder"
        raise template_error(template.source, problem="the template has no output", remedy=remedy)
    return roles


def _check_placeholders(template: Template, roles: Roles) -> None:
    for placeholder in template.placeholders:
        if placeholder.name not in roles:
            problem = f"`{{{{{placeholder.name}}}}}` is neither an input nor an output"
            raise _at(template, placeholder, problem, _suggest(placeholder.name, list(roles)[:MAX_SUGGESTED]))


def _check_outputs(template: Template, roles: Roles) -> None:
    seen: set[str] = set()
    previous: Part | None = None
    for part in template.parts:
        if isinstance(part, Placeholder) and roles[part.name] is Role.OUTPUT:
            if part.name in seen:
                remedy = "an output is generated once; give the second place another name"
                raise _at(template, part, f"the output `{part.name}` appears a second time", remedy)
            _check_what_precedes(template, part, previous, roles)
            seen.add(part.name)
        previous = part
    for name in (each for each, role in roles.items() if role is Role.OUTPUT and each not in seen):
        remedy = f"write `{{{{{name}}}}}` where the model is to write it, or remove its declaration"
        raise template_error(template.source, problem=f"the output `{name}` is not in the template", remedy=remedy)


def _check_what_precedes(template: Template, output: Placeholder, previous: Part | None, roles: Roles) -> None:
    if previous is None:
        problem = f"nothing stands before the output `{output.name}`"
        raise _at(template, output, problem, "put the text that the model is to continue before it")
    if isinstance(previous, Placeholder) and roles[previous.name] is Role.OUTPUT:
        problem = f"the outputs `{previous.name}` and `{output.name}` follow each other directly"
        raise _at(template, output, problem, "put text between them, so that the model can tell them apart")


def _check_inputs_are_read(template: Template, roles: Roles, num_read: int) -> None:
    read = {part.name for part in template.parts[:num_read] if isinstance(part, Placeholder)}
    for name in (each for each in roles if each not in read and roles[each] is Role.INPUT):
        late = next((each for each in template.placeholders if each.name == name), None)
        if late is not None:
            problem = f"the input `{name}` is only used after the last output, where nothing reads it"
            raise _at(template, late, problem, "move it before the last output, or remove it")
        remedy = f"write `{{{{{name}}}}}` where its text belongs, or remove its declaration"
        raise template_error(template.source, problem=f"the input `{name}` is not in the template", remedy=remedy)


def _check_size(template: Template, plans: tuple[OutputPlan, ...]) -> None:
    num_parts = sum(plan.num_parts for plan in plans)
    if num_parts > MAX_PROMPT_PARTS:
        problem = f"the prompts of its {len(plans)} outputs have {num_parts} parts together; at most {MAX_PROMPT_PARTS}"
        remedy = "an output repeats all that is before it: split the template into several functions"
        raise template_error(template.source, problem=problem, remedy=remedy)


def _at(template: Template, placeholder: Placeholder, problem: str, remedy: str) -> TemplateError:
    start = placeholder.position
    end = template.source.find("}}", start) + 2
    return place_error(template.source, start, end, problem=problem, remedy=remedy)


def _suggest(name: str, declared: list[str]) -> str:
    known = ", ".join(f"`{each}`" for each in declared[:12]) + (", …" if len(declared) > 12 else "")
    close = difflib.get_close_matches(name, declared, n=1)
    return f"did you mean `{close[0]}`? declared: {known}" if close else f"declare it; declared: {known or 'nothing'}"
