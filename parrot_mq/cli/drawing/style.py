"""Colours and marks, the same in every picture."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CRITICAL", "FAILED", "KINDS", "LEGEND", "MARKS", "KindStyle"]


class KindStyle(NamedTuple):
    """How a class of work is drawn.

    Attributes:
        label: What the legend calls it.
        line: Colour of lines and bars in SVG.
        fill: Colour of boxes in SVG.
        pale: Colour of bars while it waits, in SVG.
        terminal: Colour in a terminal.
    """

    label: str
    line: str
    fill: str
    pale: str
    terminal: str


KINDS = {
    "latency": KindStyle("latency", "#2563eb", "#eff6ff", "#bfdbfe", "blue"),
    "throughput": KindStyle("throughput", "#b45309", "#fffbeb", "#fde68a", "yellow"),
    "": KindStyle("not deduced", "#64748b", "#f8fafc", "#e2e8f0", "white"),
}
CRITICAL = "#be185d"
FAILED = "#dc2626"

MARKS = {
    "waiting": ("·", "waits for inputs"),
    "ready": ("○", "ready"),
    "assigned": ("◔", "assigned"),
    "running": ("◑", "runs"),
    "finished": ("●", "done"),
    "failed": ("✗", "failed"),
}
"""Mark and words for each state of an output."""

LEGEND = "   ".join(f"{mark} {words}" for mark, words in MARKS.values())
