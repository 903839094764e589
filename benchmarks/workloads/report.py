"""Results as Markdown tables, plots and JSON."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.workloads.measure import Measurement
from benchmarks.workloads.metrics import Statistics, rounded
from benchmarks.workloads.scenarios import FIGURES, Figure, Metric
from benchmarks.workloads.svg import Series, draw_lines
from benchmarks.workloads.systems import ABLATIONS, BASELINES, OURS, SYSTEMS

__all__ = ["FigureResults", "read_json", "write_figure", "write_json", "write_plot", "write_summary"]

UNITS = {
    "jct_s": "job completion time, s",
    "jct_p99_s": "99th percentile of job completion time, s",
    "makespan_s": "makespan, s",
    "normalized_ms": "latency per output token, ms",
    "normalized_p99_ms": "99th percentile of latency per output token, ms",
    "tpot_ms": "time per output token once begun, ms",
}
_PLOTTED = ("ours", "a", "a-cascade", "a-aware", "b", "c")


@dataclass(frozen=True, slots=True)
class FigureResults:
    """What was measured for a figure."""

    figure: Figure
    measurements: Sequence[Measurement]

    @property
    def delays_ms(self) -> list[float]:
        """Network delays at which it was measured."""
        return sorted({one.delay_ms for one in self.measurements})

    @property
    def xs(self) -> list[float]:
        """The points."""
        return sorted({one.x for one in self.measurements})

    @property
    def systems(self) -> list[str]:
        """Names of the systems, in order."""
        measured = {one.system for one in self.measurements}
        return [name for name in SYSTEMS if name in measured]

    def value(self, system: str, x: float, delay_ms: float, kind: str, metric: Metric) -> float | None:
        """One number; None if it was not measured."""
        for one in self.measurements:
            if (one.system, one.x, one.delay_ms) == (system, x, delay_ms) and kind in one.kinds:
                return float(getattr(one.kinds[kind], metric))
        return None

    def first(self, system: str, x: float, delay_ms: float) -> float | None:
        """One number of the figure's own metric."""
        kind, metric = self.figure.metrics[0]
        return self.value(system, x, delay_ms, kind, metric)

    def ratio(self, system: str, x: float, delay_ms: float, index: int = 0) -> float | None:
        """How many times the metric of ours that of another system is; above 1 ours is better."""
        kind, metric = self.figure.metrics[index]
        other = self.value(system, x, delay_ms, kind, metric)
        ours = self.value(OURS.name, x, delay_ms, kind, metric)
        return other / ours if other and ours else None

    def sustained(self, system: str, delay_ms: float, limit: float) -> tuple[float, bool] | None:
        """The rate at which the first metric reaches a limit, and whether it does so in the range."""
        points = [(x, value) for x in self.xs if (value := self.first(system, x, delay_ms)) is not None]
        if not points:
            return None
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            if y0 <= limit < y1:
                share = (limit - y0) / (y1 - y0)
                return math.exp(math.log(x0) + share * (math.log(x1) - math.log(x0))), True
        return (points[-1][0], False) if points[-1][1] <= limit else (0.0, False)


# -- one figure -------------------------------------------------------------------------------------------------------


def write_figure(results: FigureResults) -> str:
    """All tables of a figure."""
    figure, delay_ms = results.figure, results.delays_ms[-1]
    head = f"## {figure.title} (figure {figure.number}): `{figure.name}`"
    parts = [head]
    for kind, metric in figure.metrics:
        parts.append(f"{_title(kind, metric, figure)}, network delay {delay_ms:g} ms, by {figure.x_label or 'system'}:")
        parts.append(_absolute(results, kind, metric, delay_ms))
    parts.append("How many times as good ours is:")
    parts.append(_ratios(results))
    if figure.limits:
        parts.append(f"Requests per second up to which the mean is below a limit, network delay {delay_ms:g} ms:")
        parts.append(_sustained(results))
    parts.append(f"![{figure.title}]({figure.name}.svg)")
    return "\n\n".join(parts)


def _title(kind: str, metric: Metric, figure: Figure) -> str:
    kinds = {kind for kind, _ in figure.metrics}
    text = UNITS[metric] if len(kinds) == 1 else f"{kind}: {UNITS[metric]}"
    return text[0].upper() + text[1:]


def _absolute(results: FigureResults, kind: str, metric: Metric, delay_ms: float) -> str:
    rows = [
        [SYSTEMS[name].title, *(_number(results.value(name, x, delay_ms, kind, metric)) for x in results.xs)]
        for name in results.systems
    ]
    if results.figure.seconds and (kind, metric) == results.figure.metrics[0]:
        measured = [results.figure.seconds.get(x, (0.0, 0.0)) for x in results.xs]
        rows.append(["the paper's baseline, measured", *(_number(baseline or None) for baseline, _ in measured)])
        rows.append(["Parrot, measured", *(_number(parrot or None) for _, parrot in measured)])
    return _table(["", *(f"{x:g}" for x in results.xs)], rows)


def _ratios(results: FigureResults) -> str:
    figure = results.figure
    rows = []
    for name in [system.name for system in BASELINES if system.name in results.systems]:
        for delay_ms in results.delays_ms:
            values = [results.ratio(name, x, delay_ms) for x in results.xs]
            if any(values):
                rows.append([SYSTEMS[name].title, f"{delay_ms:g} ms", *(_number(value, 2) for value in values)])
    if figure.published:
        published = [_number(figure.published.get(x), 2) for x in results.xs]
        rows.append(["the paper against its baseline", "≈ 244 ms", *published])
    return _table(["against", "delay", *(f"{x:g}" for x in results.xs)], rows)


def _sustained(results: FigureResults) -> str:
    rows = []
    for name in [OURS.name, *(system.name for system in BASELINES)]:
        rates = []
        for limit in results.figure.limits:
            found = results.sustained(name, results.delays_ms[-1], limit)
            rates.append("" if found is None else f"{'' if found[1] else '> '}{found[0]:.1f}")
        if any(rates):
            rows.append([SYSTEMS[name].title, *rates])
    return _table(["", *(f"{limit:g} ms per output token" for limit in results.figure.limits)], rows)


def write_plot(results: FigureResults) -> str:
    """The figure's own metric at the largest delay, as SVG."""
    _, metric = results.figure.metrics[0]
    delay_ms = results.delays_ms[-1]
    lines = []
    for name in [name for name in _PLOTTED if name in results.systems]:
        points = [(x, value) for x in results.xs if (value := results.first(name, x, delay_ms)) is not None]
        lines.append(Series(SYSTEMS[name].title, points))
    values = [y for line in lines for _, y in line.points]
    is_log = max(values, default=1.0) > 8 * min(values, default=1.0)
    title = f"{results.figure.title} ({delay_ms:g} ms)"
    return draw_lines(title, results.figure.x_label, UNITS[metric], lines, is_log=is_log)


def write_json(results: FigureResults) -> dict[str, Any]:
    """Everything that was measured."""
    return {
        "figure": results.figure.name,
        "paper": results.figure.number,
        "measurements": [
            {
                "system": one.system,
                "x": one.x,
                "delay_ms": one.delay_ms,
                "kinds": {kind: rounded(statistics) for kind, statistics in one.kinds.items()},
            }
            for one in sorted(results.measurements, key=_order)
        ],
    }


def read_json(document: dict[str, Any]) -> FigureResults:
    """What `write_json` has written."""
    name = document["figure"]
    measurements = [
        Measurement(
            figure=name,
            system=one["system"],
            x=one["x"],
            delay_ms=one["delay_ms"],
            kinds={kind: Statistics(**values) for kind, values in one["kinds"].items()},
        )
        for one in document["measurements"]
        if one["system"] in SYSTEMS
    ]
    return FigureResults(FIGURES[name], measurements)


def _order(one: Measurement) -> tuple[float, float, int]:
    return one.x, one.delay_ms, list(SYSTEMS).index(one.system)


# -- all figures ------------------------------------------------------------------------------------------------------


def write_summary(all_results: Sequence[FigureResults]) -> str:
    """One line for each figure's largest point; then what each mechanism is worth there."""
    delays_ms = sorted({delay_ms for results in all_results for delay_ms in results.delays_ms})
    head = ["", "at", *(f"(a), {delay_ms:g} ms" for delay_ms in delays_ms)]
    head += ["(a) cascade, cache-aware", "(b)", "(c)", "the paper"]
    rows = []
    for results in all_results:
        figure, x, delay_ms = results.figure, results.xs[-1], results.delays_ms[-1]
        row = [figure.title, f"{x:g} {figure.x_label}".rstrip() if figure.x_label else ""]
        row += [_number(results.ratio("a", x, each), 2) for each in delays_ms]
        row += [_number(results.ratio(name, x, delay_ms), 2) for name in ("a-aware", "b", "c")]
        rows.append([*row, _number(figure.published.get(x), 2)])
    parts = ["## How many times as good ours is", _table(head, rows)]
    parts += ["## What each mechanism is worth", _ablations(all_results)]
    return "\n\n".join(parts)


def _ablations(all_results: Sequence[FigureResults]) -> str:
    """How many times worse ours is without it, at the largest point and delay, by the figure's metrics."""
    columns = [(results, index) for results in all_results for index, _ in enumerate(results.figure.metrics)]
    rows = []
    for system in ABLATIONS:
        ratios = [one.ratio(system.name, one.xs[-1], one.delays_ms[-1], index) for one, index in columns]
        rows.append([system.title, *(_number(ratio, 2) for ratio in ratios)])
    head = ["", *(_column(results.figure, index) for results, index in columns)]
    return _table(head, rows)


def _column(figure: Figure, index: int) -> str:
    kind, metric = figure.metrics[index]
    name = metric.rpartition("_")[0].replace("_", " ")
    return f"{figure.name}: {kind} {name}" if len(figure.metrics) > 1 else figure.name


def _number(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return ""
    return f"{value:,.{digits if digits is not None else 1 if value < 1000 else 0}f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))
