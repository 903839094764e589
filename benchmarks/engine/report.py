"""Results as tables: medians, the floor beside them, and ours against the best of the others."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.engine.engines import ABLATIONS, ENGINES, OURS, REFERENCE
from benchmarks.engine.floor import PREFILL_ROWS, count_work, floor_seconds
from benchmarks.engine.process import Measurement
from benchmarks.engine.workloads import WORKLOADS

__all__ = ["TARGETS", "Results", "as_json", "write_tables"]

TARGETS = {"w1": 1.1, "w2": 1.0, "w3": 1.0, "w4": 0.95}
"""How much faster than the best peer ours is meant to be."""


@dataclass(slots=True)
class Results:
    """All that was measured in one type.

    Attributes:
        dtype: `float32` or `bfloat16`.
        about: What each runner told about itself when it was ready.
        measurements: By engine and workload, in order of the repetitions.
        failures: Why an engine has no more measurements.
        floors: Of each repetition, seconds of all projections by rows.
    """

    dtype: str
    about: dict[str, dict[str, Any]] = field(default_factory=dict)
    measurements: dict[str, dict[str, list[Measurement]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    floors: list[dict[int, float]] = field(default_factory=list)

    def seconds(self, engine: str, workload: str) -> float | None:
        """The median, or none."""
        measured = self.measurements.get(engine, {}).get(workload)
        return statistics.median(one.seconds for one in measured) if measured else None

    def peak_mib(self, engine: str) -> float | None:
        """Most memory from the start to the end of the first W1; or of the first workload, without W1."""
        measured = next(iter(self.measurements.get(engine, {}).values()), [])
        return measured[0].peak_mib if measured else None

    def best_peer(self, workload: str) -> tuple[float, str] | None:
        """Seconds and name of the fastest that is not ours."""
        peers = [name for name in self.measurements if not _is_ours(name)]
        return min(((seconds, name) for name in peers if (seconds := self.seconds(name, workload))), default=None)

    def floor(self, workload: str) -> float:
        """Seconds below which no engine can be, by the fastest products that were seen."""
        fastest = {rows: min(floor[rows] for floor in self.floors) for rows in self.floors[0]}
        return floor_seconds(count_work(workload), fastest)

    def num_equal(self, engine: str) -> tuple[int, int] | None:
        """Outputs that are those of the reference, of all that can be compared."""
        pairs = [
            (output, expected)
            for workload, measured in self.measurements.get(engine, {}).items()
            for one, reference in zip(measured, self.measurements.get(REFERENCE, {}).get(workload, []), strict=False)
            for output, expected in zip(one.outputs, reference.outputs, strict=True)
        ]
        return (sum(output == expected for output, expected in pairs), len(pairs)) if pairs else None


def write_tables(results: Results, workloads: Sequence[str]) -> str:
    """Everything about one type, in Markdown."""
    parts = [f"### {results.dtype}", _write_seconds(results, workloads), _write_ratios(results, workloads)]
    parts += [f"{ENGINES[name].title} failed: {why}" for name, why in results.failures.items()]
    return "\n\n".join(part for part in parts if part)


def _write_seconds(results: Results, workloads: Sequence[str]) -> str:
    head = ["seconds, median", *(name.upper() for name in workloads), "peak MiB", "outputs as `generate`"]
    rows = []
    for name in ENGINES:
        if name in results.measurements:
            equal = results.num_equal(name)
            seconds = [_number(results.seconds(name, workload)) for workload in workloads]
            same = f"{equal[0]} of {equal[1]}" if equal else ""
            rows.append([ENGINES[name].title, *seconds, _number(results.peak_mib(name), 0), same])
    if results.floors:
        rows.append([_describe_floor(results), *(_number(results.floor(one)) for one in workloads), "", ""])
    return _table(head, rows)


def _describe_floor(results: Results) -> str:
    work = count_work("w4")._replace(num_seen=0, steps=(), num_logits=PREFILL_ROWS, num_prefill=PREFILL_ROWS)
    rate = max(work.flops / floor[PREFILL_ROWS] for floor in results.floors)
    return f"floor, at {rate / 1e9:,.0f} GFLOP/s"


def _write_ratios(results: Results, workloads: Sequence[str]) -> str:
    """Ours against the best peer, against the reference and against the floor; above 1 ours is faster."""
    if OURS not in results.measurements:
        return ""
    rows = []
    for workload in workloads:
        ours, best = results.seconds(OURS, workload), results.best_peer(workload)
        if not ours or not best:
            continue
        reference = results.seconds(REFERENCE, workload)
        row = [workload.upper(), ENGINES[best[1]].title, f"{best[0] / ours:.2f}", f"{TARGETS[workload]:.2f}"]
        row += [f"{reference / ours:.1f}" if reference else ""]
        rows.append([*row, f"{results.floor(workload) / ours:.0%}" if results.floors else ""])
    head = ["ours against", "the best peer", "times as fast", "target", "against `generate`", "of the floor's speed"]
    return _table(head, rows) if rows else ""


def _is_ours(name: str) -> bool:
    return name == OURS or name in ABLATIONS


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def as_json(results: Results) -> dict[str, Any]:
    """Everything that was measured but the outputs."""
    return {
        "dtype": results.dtype,
        "about": results.about,
        "failures": results.failures,
        "projection_seconds_by_rows": results.floors,
        "floor_seconds": {name: results.floor(name) for name in WORKLOADS} if results.floors else {},
        "equal_outputs": {name: results.num_equal(name) for name in results.measurements},
        "measurements": {name: _without_outputs(one) for name, one in results.measurements.items()},
    }


def _without_outputs(measured: Mapping[str, Sequence[Measurement]]) -> dict[str, list[dict[str, float]]]:
    names = ("seconds", "cpu_seconds", "peak_mib")
    return {
        workload: [{name: round(getattr(one, name), 3) for name in names} for one in some]
        for workload, some in measured.items()
    }
