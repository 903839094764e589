"""Templates: text with `{{placeholders}}`.

The grammar, on runs of one kind of brace: `{{{{` is a literal `{{` and `}}}}` a literal `}}`; a single brace is
ordinary text. Of a run of opening braces the last two open a placeholder if the run, taken four by four, leaves two or
three. So `{"a": {{x}}}` is a placeholder inside single braces, and every text can be written in exactly one way.

Source: Parrot, OSDI'24, section 4.1 (prompts with placeholders). The original has no escaping.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from parrot_mq.errors import TemplateError
from parrot_mq.program.diagnostics import place_error

__all__ = [
    "PLACEHOLDER_RULE",
    "Part",
    "Placeholder",
    "Template",
    "Text",
    "escape_braces",
    "is_placeholder_name",
    "parse_template",
]

PLACEHOLDER_RULE: Final = "use 1 to 64 of the characters A-Z a-z 0-9 _, not beginning with a digit"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_INSIDE = re.compile(r"[ \t]*(?P<name>[A-Za-z_][A-Za-z0-9_]{0,63})[ \t]*\}\}")
_BRACES = re.compile(r"\{{2,}|\}{2,}")


@dataclass(frozen=True, slots=True)
class Text:
    """Constant text, with its braces as they are meant. Attribute `position`: where it begins in the source."""

    text: str
    position: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Stands for the value of an input or output. Attribute `position`: where its `{{` begins in the source."""

    name: str
    position: int = field(default=0, compare=False)


Part = Text | Placeholder


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: texts, never two in a row and never empty, and placeholders.

    Two templates are equal if they mean the same, however they were written.
    """

    parts: tuple[Part, ...]
    source: str = field(default="", compare=False, repr=False)

    @property
    def placeholders(self) -> tuple[Placeholder, ...]:
        """The placeholders in the order of the template, each as often as it appears."""
        return tuple(part for part in self.parts if isinstance(part, Placeholder))

    @property
    def text(self) -> str:
        """A source that parses to an equal template: the one without spaces inside the braces."""
        return "".join(
            escape_braces(part.text) if isinstance(part, Text) else f"{{{{{part.name}}}}}" for part in self.parts
        )


def is_placeholder_name(name: str) -> bool:
    """True if `{{name}}` is a placeholder."""
    return _NAME.fullmatch(name) is not None


def escape_braces(text: str) -> str:
    """Write a text so that a template shows it as it is.

    The result can stand before, after or between placeholders. To put two texts side by side, escape the joined text.
    """
    return text.replace("{{", "{{{{").replace("}}", "}}}}")


def parse_template(text: str) -> Template:
    """Cut a template at its placeholders.

    Args:
        text: Text with `{{name}}` placeholders; spaces around the name are allowed.

    Raises:
        TemplateError: A `{{` or `}}` stands alone, a name is empty or not allowed, or the text is not valid Unicode.
            The message shows the line with the place, and what to write instead.
    """
    _check_unicode(text)
    parts: list[Part] = []
    literal: list[str] = []
    begin = position = 0
    while run := _BRACES.search(text, position):
        num_pairs, rest = divmod(len(run[0]), 4)
        literal += text[position : run.start()], run[0][0] * (2 * num_pairs + rest % 2)
        position = run.end()
        if rest < 2:
            continue
        if run[0][0] == "}":
            raise _lone(text, position - 2, "}}")
        _append_text(parts, literal, begin)
        name, end = _read_name(text, position)
        parts.append(Placeholder(name, position - 2))
        begin = position = end
    literal.append(text[position:])
    _append_text(parts, literal, begin)
    return Template(tuple(parts), text)


def _append_text(parts: list[Part], literal: list[str], position: int) -> None:
    if joined := "".join(literal):
        parts.append(Text(joined, position))
    literal.clear()


def _read_name(text: str, position: int) -> tuple[str, int]:
    """The name that begins at `position`, after the `{{`, and where the text goes on after its `}}`."""
    if match := _INSIDE.match(text, position):
        return match["name"], match.end()
    raise _bad_placeholder(text, position - 2)


def _bad_placeholder(text: str, start: int) -> TemplateError:
    """Say what is wrong with the `{{` at `start`: never closed, or a bad name."""
    line_end = text.find("\n", start)
    line_end = len(text) if line_end < 0 else line_end
    close = text.find("}}", start, line_end)
    reopen = text.find("{{", start + 2, line_end)
    if close < 0 or 0 <= reopen < close:
        return _lone(text, start, "{{")
    name = text[start + 2 : close].strip(" \t")
    shown = repr(name) if len(name) <= 80 else f"of {len(name)} characters"
    problem = f"the placeholder name {shown} is not allowed" if name else "a placeholder has no name"
    remedy = f"{PLACEHOLDER_RULE}; for literal braces write `{{{{{{{{` and `}}}}}}}}`"
    return place_error(text, start, close + 2, problem=problem, remedy=remedy)


def _lone(text: str, start: int, braces: str) -> TemplateError:
    problem = f"`{braces}` opens no placeholder" if braces == "{{" else f"`{braces}` closes no placeholder"
    remedy = f"write `{{{{name}}}}` on one line for a placeholder, or `{braces * 2}` for a literal `{braces}`"
    return place_error(text, start, start + 2, problem=problem, remedy=remedy)


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code_point = ord(text[error.start])
        problem = f"the template has the lone surrogate U+{code_point:04X}, which is not text"
        remedy = "decode the text with the right encoding, or with errors='replace'"
        raise place_error(text, error.start, error.start + 1, problem=problem, remedy=remedy) from None
