"""The comparison of engines: workloads, arithmetic and report. What runs engines is seen when it is run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.engine.engines import ENGINES, Entry
from benchmarks.engine.environments import ENVIRONMENTS
from benchmarks.engine.floor import PREFILL_ROWS, count_work, floor_seconds
from benchmarks.engine.process import Measurement, Runner, RunnerFailed
from benchmarks.engine.report import Results, write_tables
from benchmarks.engine.runners.base import Job
from benchmarks.engine.workloads import WORKLOADS, TokenIds, common_prefix, run_workload, stages

JOB = Job(model="", dtype="float32", num_threads=1, max_context_tokens=1, num_cache_tokens=1)


def _echo(prompts: list[TokenIds], num_new: int) -> list[TokenIds]:
    return [prompt[-num_new:] for prompt in prompts]


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_is_the_same_each_time_and_another_in_each_repetition(name: str) -> None:
    assert run_workload(name, 0, _echo) == run_workload(name, 0, _echo)
    assert run_workload(name, 0, _echo) != run_workload(name, 1, _echo)


def test_workloads_have_the_sizes_that_their_summaries_tell() -> None:
    sizes = {name: [([len(one) for one in prompts], new) for prompts, new in stages(name)] for name in WORKLOADS}
    assert sizes["w1"] == [([1056] * 32, 32)]
    assert sizes["w2"] == [([512] * 16, 64), ([64 + 16 * 64], 64)]
    assert sizes["w3"] == [([256], 32)] + [([288], 32)] * 9
    assert sizes["w4"] == [([256] * 32, 32)]


def test_prompts_share_what_the_summaries_tell_and_no_more() -> None:
    shared = {name: len(common_prefix(stages(name)[0][0])) for name in ("w1", "w2", "w4")}
    assert shared == {"w1": 1024, "w2": 64, "w4": 0}


def test_the_last_token_of_a_prompt_is_never_shared() -> None:
    assert common_prefix([[1, 2], [1, 2, 3]]) == [1]
    assert common_prefix([[1, 2], [1, 2]]) == [1]


def test_work_counts_shared_tokens_once() -> None:
    work = count_work("w1")
    assert work.num_prefill == 1024 + 32 * 32
    assert work.steps == (32,) * 31
    assert count_work("w2").num_prefill == 64 + 16 * 448 + 16 * 64


def test_the_floor_is_the_arithmetic_at_the_measured_rate() -> None:
    """Twice as fast products halve it; without decode steps it is work by rate."""
    seconds = {1: 0.01, 16: 0.02, 32: 0.03, PREFILL_ROWS: 0.3}
    halved = {rows: value / 2 for rows, value in seconds.items()}
    work = count_work("w1")
    assert floor_seconds(work, halved) == pytest.approx(floor_seconds(work, seconds) / 2)
    assert floor_seconds(work, seconds) > 31 * 0.03


def test_the_table_names_the_best_peer_and_counts_equal_outputs() -> None:
    results = Results("float32")
    for name, seconds, output in (("parrot", 2.0, 1), ("generate", 30.0, 1), ("vllm", 3.0, 2)):
        results.measurements[name] = {"w1": [Measurement(seconds, seconds, 100.0, [[output]])]}
    tables = write_tables(results, ["w1"])
    assert "| W1 | vLLM, prefix cache, compiled | 1.50 | 1.10 | 15.0 |" in tables
    assert "| parrot-mq | 2.00 | 100 | 1 of 1 |" in tables
    assert "| vLLM, prefix cache, compiled | 3.00 | 100 | 0 of 1 |" in tables


def test_every_environment_that_an_engine_names_is_there() -> None:
    assert {entry.environment for entry in ENGINES.values()} - {None} <= set(ENVIRONMENTS)


def test_a_runner_that_cannot_start_fails_with_its_last_words(tmp_path: Path) -> None:
    entry = Entry(name="nobody", title="Nobody", runner="nobody")
    with Runner(entry, JOB, tmp_path) as runner, pytest.raises(RunnerFailed, match=r"Nobody: .*No module named"):
        runner.wait_ready()


def test_a_runner_answers_with_outputs_time_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol, with a model that repeats its prompt."""
    (tmp_path / "echo.py").write_text(
        "from benchmarks.engine.runners.base import serve\n"
        "print('noise on standard output')\n"
        "serve(lambda job: lambda prompts, num_new: [prompt[-num_new:] for prompt in prompts], 'pytest')\n"
    )
    monkeypatch.setattr("benchmarks.engine.process.RUNNERS", "")
    monkeypatch.setattr("benchmarks.engine.process.variables", lambda *_: {"PYTHONPATH": _path(tmp_path)})
    with Runner(Entry(name="echo", title="Echo", runner="echo"), JOB, tmp_path) as runner:
        assert runner.wait_ready()["versions"] == {"pytest": pytest.__version__}
        measurement = runner.measure("w4", 0)
    assert measurement.outputs == run_workload("w4", 0, _echo)
    assert measurement.seconds > 0
    assert measurement.peak_mib > 1


def _path(folder: Path) -> str:
    return ":".join([str(folder), str(Path(__file__).parents[2]), *filter(None, sys.path)])
