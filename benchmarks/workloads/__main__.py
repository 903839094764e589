"""The workloads of the Parrot paper: ours against clients that send one request at a time, on simulated workers.

Ours is the real coordinator and the real client on a bus in memory, in virtual time; a worker's steps take as long as a
latency model says. The others are the same simulated engines behind a router. Nothing is random but by a fixed seed.

    python -m benchmarks.workloads                              everything; results under benchmarks/workloads/results
    python -m benchmarks.workloads --only gpts mixed            these figures
    python -m benchmarks.workloads --quick                      few and short points, as in the tests
    python -m benchmarks.workloads --delay-ms 0 100             other network delays
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks.workloads.measure import Measurement, cases_of, measure_all
from benchmarks.workloads.report import FigureResults, read_json, write_figure, write_json, write_plot, write_summary
from benchmarks.workloads.scenarios import FIGURES, Figure
from benchmarks.workloads.systems import SYSTEMS

RESULTS = Path(__file__).parent / "results"
DELAYS_MS = (0.0, 1.0, 50.0, 244.0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run, write."""
    options = _parse(arguments)
    all_results = _measure(options)
    if options.json:
        options.json.write_text(json.dumps([write_json(results) for results in all_results], indent=1) + "\n")
    print(_write_text(all_results))
    if options.output is not None:
        _write_files(all_results, options.output)


def _write_text(all_results: Sequence[FigureResults]) -> str:
    return "\n\n".join([write_summary(all_results), *(write_figure(results) for results in all_results)]) + "\n"


def _write_files(all_results: Sequence[FigureResults], folder: Path) -> None:
    """Write plots and numbers of what was measured, and the tables of all figures that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for results in all_results:
        path = folder / results.figure.name
        path.with_suffix(".svg").write_text(write_plot(results))
        path.with_suffix(".json").write_text(json.dumps(write_json(results)) + "\n")
    paths = [path for name in FIGURES if (path := folder / f"{name}.json").exists()]
    text = _write_text([read_json(json.loads(path.read_text())) for path in paths])
    (folder / "README.md").write_text(f"# Results\n\nWritten by `python -m benchmarks.workloads`.\n\n{text}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.workloads",
        description=__doc__,
        epilog="\n".join(f"{one.name}: {one.title} (figure {one.number})" for one in FIGURES.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(FIGURES), default=list(FIGURES), help="figures")
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--quick", action="store_true", help="few and short points; writes no files unless told where")
    parser.add_argument("--delay-ms", nargs="+", type=float, help="there and back between client and service")
    parser.add_argument("--json", type=Path, help="also write everything that was measured into this file")
    parser.add_argument("--output", type=Path, help=f"folder of tables and plots; {RESULTS.name} without --quick")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    options.delay_ms = options.delay_ms or ((244.0,) if options.quick else DELAYS_MS)
    if options.output is None and not options.quick:
        options.output = RESULTS
    return options


def _measure(options: argparse.Namespace) -> list[FigureResults]:
    cases = [
        case
        for name in options.only
        for case in cases_of(name, options.delay_ms, is_quick=options.quick)
        if case.system in options.systems
    ]
    measured: dict[str, list[Measurement]] = {name: [] for name in options.only}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("cases", total=len(cases))
        for one in measure_all(cases, num_processes=options.processes):
            measured[one.figure].append(one)
            progress.update(task, advance=1, description=f"{one.figure} {one.system}")
    return [FigureResults(_figure(name, options.quick), found) for name, found in measured.items()]


def _figure(name: str, is_quick: bool) -> Figure:
    """Short points cannot be compared with what the paper has measured."""
    return replace(FIGURES[name], published={}, seconds={}) if is_quick else FIGURES[name]


if __name__ == "__main__":
    main()
