"""How fast is the engine, next to others that serve the same model on the same CPU?

Every engine gets the same weights, the same token ids, greedy, without an end of sequence; each is one process with its
own environment, and room for the same number of tokens in its cache. They take turns: a workload here, the same there,
then the next. Each repetition has token ids of its own, so that no cache knows them. What is printed are medians.

The first run makes a random model of 88 M parameters. Examples:

    python -m benchmarks.engine                                  ours and transformers
    python -m benchmarks.engine --peers all --install            with vLLM, OpenVINO and llama.cpp, installed if need be
    python -m benchmarks.engine --peers vllm --no-transformers --workloads w1 w4 --dtypes bfloat16
    python -m benchmarks.engine --ablations --no-transformers    ours with one mechanism switched off at a time
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.engine.engines import ABLATIONS, ENGINES, OURS, PEERS, Entry
from benchmarks.engine.environments import ROOT, find_python, install, is_installed, variables
from benchmarks.engine.formats import prepare_model
from benchmarks.engine.process import Runner, RunnerFailed
from benchmarks.engine.report import Results, as_json, write_tables
from benchmarks.engine.runners.base import Job
from benchmarks.engine.workloads import WORKLOADS

DTYPES = ("float32", "bfloat16")
MAX_CONTEXT_TOKENS = 2048
NUM_CACHE_TOKENS = 16384
"""Room in every cache: all of the largest stage, 16 times 576 tokens, and what the stages before it left."""


def main() -> None:
    """Parse the command line, run, print."""
    options = _parse()
    entries = [ENGINES[name] for name in _names(options)]
    for entry in entries:
        _require(entry, options)
    all_results = []
    for dtype in options.dtypes:
        results = Results(dtype)
        all_results.append(results)
        _run(results, entries, options)
        print(write_tables(results, options.workloads), flush=True)
    if options.json:
        text = json.dumps({"machine": _machine(options), "results": [as_json(one) for one in all_results]}, indent=1)
        options.json.write_text(text + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine",
        description=__doc__,
        epilog="\n".join(f"{one.name}: {one.summary}" for one in WORKLOADS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peers", nargs="+", choices=[*PEERS, "all"], default=[], help="engines to compare with")
    parser.add_argument("--install", action="store_true", help="make the environments of these peers; downloads")
    parser.add_argument("--ablations", action="store_true", help="ours also with each mechanism switched off")
    parser.add_argument("--no-transformers", action="store_true", help="leave out the slow baselines")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each engine")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench", help="model and environments")
    parser.add_argument("--json", type=Path, help="also write everything that was measured here")
    return parser.parse_args()


def _names(options: argparse.Namespace) -> Sequence[str]:
    peers = PEERS if "all" in options.peers else [peer for peer in PEERS if peer in options.peers]
    transformers = () if options.no_transformers else ("generate", "generate_batch")
    return [OURS, *(ABLATIONS if options.ablations else ()), *transformers, *peers]


def _require(entry: Entry, options: argparse.Namespace) -> None:
    """Have the environment and the model of an engine, or end with a sentence."""
    environment = entry.environment
    if environment and not is_installed(options.folder, environment):
        if not options.install:
            sys.exit(f"{entry.title} is not installed in {options.folder}: add --install")
        print(f"installing {entry.title}", file=sys.stderr, flush=True)
        install(options.folder, environment)
    for dtype in options.dtypes:
        prepare_model(options.folder, entry.format, dtype)


def _run(results: Results, entries: Sequence[Entry], options: argparse.Namespace) -> None:
    with ExitStack() as stack:
        runners = []
        for entry in entries:
            runner = stack.enter_context(Runner(entry, _job(entry, results.dtype, options), options.folder))
            try:
                # One after the other: while one loads, no other one does anything.
                results.about[entry.name] = runner.wait_ready()
                runners.append(runner)
            except RunnerFailed as error:
                results.failures[entry.name] = str(error)
        for repetition in range(options.repetitions):
            results.floors.append(_measure_floor(results.dtype, options))
            for workload in options.workloads:
                _take_turns(results, runners, workload, repetition)


def _job(entry: Entry, dtype: str, options: argparse.Namespace) -> Job:
    return Job(
        model=str(prepare_model(options.folder, entry.format, dtype)),
        dtype=dtype,
        num_threads=options.threads,
        max_context_tokens=MAX_CONTEXT_TOKENS,
        num_cache_tokens=NUM_CACHE_TOKENS,
        options=entry.options,
    )


def _take_turns(results: Results, runners: list[Runner], workload: str, repetition: int) -> None:
    """Let each engine run the workload; who fails is out. Another one begins in each repetition."""
    shift = repetition % max(len(runners), 1)
    for runner in runners[shift:] + runners[:shift]:
        name = runner.entry.name
        try:
            measurement = runner.measure(workload, repetition)
        except RunnerFailed as error:
            results.failures[name] = str(error)
            runners.remove(runner)
            continue
        results.measurements.setdefault(name, {}).setdefault(workload, []).append(measurement)
        told = f"{measurement.seconds:7.2f} s, {measurement.cpu_seconds:7.2f} s of CPU"
        print(f"{results.dtype} {repetition} {workload} {name:15} {told}", file=sys.stderr, flush=True)


def _measure_floor(dtype: str, options: argparse.Namespace) -> dict[int, float]:
    command = [str(find_python(options.folder, None)), "-m", "benchmarks.engine.floor", dtype, str(options.threads)]
    environ = variables(options.folder, None, options.threads)
    output = subprocess.run(command, env=environ, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {int(rows): seconds for rows, seconds in json.loads(output).items()}


def _machine(options: argparse.Namespace) -> dict[str, object]:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    flags = next((line.split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    name = next((line.split(":")[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "")
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "processor": name,
        "instructions": [one for one in wanted if one in flags],
        "num_threads": options.threads,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
