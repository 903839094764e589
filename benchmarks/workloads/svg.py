"""Line plots as plain SVG, so that the benchmark needs no plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Series", "draw_lines"]

_WIDTH, _HEIGHT = 720, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 262, 34, 46
_COLOURS = ("#0b6e4f", "#c1292e", "#e08e1b", "#2c5f9e", "#7b4ea3", "#555555", "#b0578d", "#4aa3a2")
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 5", "12 4")


@dataclass(frozen=True, slots=True)
class Series:
    """A line: its name in the legend, and its points."""

    name: str
    points: Sequence[tuple[float, float]]


def draw_lines(title: str, x_label: str, y_label: str, lines: Sequence[Series], *, is_log: bool = False) -> str:
    """An SVG document of lines with markers, axes, grid and legend.

    Args:
        is_log: Whether the y axis is logarithmic.
    """
    points = [point for line in lines for point in line.points]
    xs = sorted({x for x, _ in points}) or [0.0]
    top = max((y for _, y in points), default=1.0) or 1.0
    bottom = min((y for _, y in points if y > 0), default=1.0) if is_log else 0.0
    scale = _Scale(xs[0], xs[-1], bottom, top, is_log)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="11" fill="#222">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="18" font-size="13" font-weight="bold">{escape(title)}</text>',
        *_axes(scale, xs, x_label, y_label),
    ]
    for index, line in enumerate(lines):
        parts += _line(scale, line, index)
    return "\n".join([*parts, "</svg>", ""])


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to places on the canvas."""

    left: float
    right: float
    bottom: float
    top: float
    is_log: bool

    def x(self, value: float) -> float:
        share = (value - self.left) / (self.right - self.left) if self.right > self.left else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        if self.is_log:
            low, high = math.log(self.bottom), math.log(self.top)
            share = (math.log(max(value, self.bottom)) - low) / (high - low) if high > low else 0.5
        else:
            share = value / self.top
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def ticks(self) -> list[float]:
        """Round values on the y axis."""
        if self.is_log:
            begin, end = math.floor(math.log10(self.bottom)), math.ceil(math.log10(self.top))
            values = [digit * 10.0**power for power in range(begin, end + 1) for digit in (1, 2, 5)]
            return [value for value in values if self.bottom <= value <= self.top]
        step = 10 ** math.floor(math.log10(self.top))
        step = next(step * part for part in (0.1, 0.2, 0.5, 1.0) if self.top / (step * part) <= 6 or part == 1.0)
        return [step * index for index in range(int(self.top / step) + 1)]


def _axes(scale: _Scale, xs: Sequence[float], x_label: str, y_label: str) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for value in scale.ticks():
        y = scale.y(value)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,g}</text>')
    last = -math.inf
    for value in xs:
        x = scale.x(value)
        parts.append(f'<line x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 4}" stroke="#222"/>')
        if x - last >= 24:
            parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{value:,g}</text>')
            last = x
    middle = (_LEFT + right) / 2
    parts.append(f'<line x1="{_LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="#222"/>')
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    height = (_TOP + bottom) / 2
    parts.append(
        f'<text x="14" y="{height}" text-anchor="middle" transform="rotate(-90 14 {height})">{escape(y_label)}</text>'
    )
    return parts


def _line(scale: _Scale, line: Series, index: int) -> list[str]:
    colour, dash = _COLOURS[index % len(_COLOURS)], _DASHES[index % len(_DASHES)]
    places = [(scale.x(x), scale.y(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    style = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
    legend = _TOP + 8 + 18 * index
    left = _WIDTH - _RIGHT + 12
    return [
        f'<polyline points="{path}" {style}/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places),
        f'<line x1="{left}" y1="{legend}" x2="{left + 24}" y2="{legend}" {style}/>',
        f'<text x="{left + 30}" y="{legend + 4}">{escape(line.name)}</text>',
    ]
