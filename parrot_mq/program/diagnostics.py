"""Errors that show the place in a template, or what a text begins with."""

from __future__ import annotations

import unicodedata

from parrot_mq.errors import TemplateError

__all__ = ["MAX_EXCERPT", "excerpt", "place_error", "point_at", "show_lines", "template_error"]

MAX_COLUMNS = 100
MAX_LINES = 8
MAX_EXCERPT = 200
_LEAD_COLUMNS = 40


def place_error(source: str, start: int, end: int, *, problem: str, remedy: str) -> TemplateError:
    """An error about `source[start:end]`: the sentence, then the line with carets under the place."""
    line, column = _line_and_column(source, start)
    sentence = f"{problem} (line {line}, column {column}); {remedy}\n{point_at(source, start, end)}"
    return TemplateError(sentence, line=line, column=column)


def template_error(source: str, *, problem: str, remedy: str) -> TemplateError:
    """An error about what a template lacks: the sentence, then the template."""
    return TemplateError(f"{problem}; {remedy}\n{show_lines(source)}")


def point_at(source: str, start: int, end: int) -> str:
    """The line of `source[start:end]` with its number, and carets under the place on the next line.

    Only a window of a long line is shown. Characters that cannot be printed are shown as spaces.
    """
    line, column = _line_and_column(source, start)
    begin = start - (column - 1)
    stop = source.find("\n", start)
    stop = len(source) if stop < 0 else stop
    left = max(begin, start - _LEAD_COLUMNS) if stop - begin > MAX_COLUMNS else begin
    right = min(stop, left + MAX_COLUMNS)
    before = ("…" if left > begin else "") + _printable(source[left:start])
    place = _printable(source[start : min(end, right)])
    after = _printable(source[start + len(place) : right]) + ("…" if right < stop else "")
    carets = " " * _width(before) + "^" * max(1, _width(place))
    return f"  {line} | {before}{place}{after}\n  {' ' * len(str(line))} | {carets}"


def show_lines(source: str) -> str:
    """The first lines of a template, numbered."""
    lines = source.split("\n", MAX_LINES)
    shown = [f"  {number} | {_clip(_printable(line))}" for number, line in enumerate(lines[:MAX_LINES], start=1)]
    return "\n".join(shown + (["  …"] if len(lines) > MAX_LINES else []))


def _line_and_column(source: str, position: int) -> tuple[int, int]:
    return source.count("\n", 0, position) + 1, position - source.rfind("\n", 0, position)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _clip(line: str) -> str:
    return line if len(line) <= MAX_COLUMNS else line[:MAX_COLUMNS] + "…"


def _width(text: str) -> int:
    """Columns that a terminal uses: East Asian wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def excerpt(text: str) -> str:
    """The beginning of a text in quotes, with what cannot be printed escaped: at most `MAX_EXCERPT` characters."""
    quoted = repr(text[:MAX_EXCERPT])
    return quoted if len(text) <= MAX_EXCERPT and len(quoted) <= MAX_EXCERPT else f"{quoted[: MAX_EXCERPT - 1]}…"
