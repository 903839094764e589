"""`parrot-mq native`: what a person sees, and what the service manager and Prometheus are told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from parrot_mq.cli.app import app
from parrot_mq.cli.native import STUCK_S, HostCondition
from parrot_mq.native import HostStatistics
from parrot_mq.native.metrics import NativeCollector
from parrot_mq.native.statistics import ServedCounts

TOOLS = """\
from parrot_mq import native_function

@native_function(attempt_timeout_s=10, max_attempts=1)
async def search(question: str, language: str = "en") -> list[str]:
    return [question]

@native_function
def calculate(expression: str) -> str:
    return expression

tools = [search]
nothing = []
"""


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["native", *arguments])


@pytest.fixture(autouse=True)
def _nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The files of each test are loaded anew."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("our_tools", "others", "broken"):
        sys.modules.pop(name, None)
    structlog.reset_defaults()


@pytest.fixture
def tools(tmp_path: Path) -> str:
    """A file with two functions."""
    path = tmp_path / "our_tools.py"
    path.write_text(TOOLS)
    return str(path)


def _mistake(*arguments: str) -> str:
    done = _run("--check", *arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    return done.stderr.removeprefix("error: ").strip()


def test_check_says_what_would_be_served(tools: str) -> None:
    search = "search: search(question, language=…) -> result (async, 10 s an attempt, 1 attempt)"
    calculate = "calculate: calculate(expression) -> result (in threads, 60 s an attempt, 3 attempts)"
    assert _run("--check", tools).stdout.splitlines() == [search, calculate]
    assert _run("--check", f"{tools}:tools", f"{tools}:calculate").stdout.splitlines() == [search, calculate]


def test_a_mistake_is_told_with_the_remedy(tools: str, tmp_path: Path) -> None:
    assert _mistake(f"{tools}:serch") == (
        f"{tools}:serch: there is no 'serch' in module 'our_tools'; there is native_function, search, calculate, "
        "tools, nothing"
    )
    assert _mistake(f"{tools}:nothing").endswith(
        "'nothing' is no native function, and no list of them; decorate a function with `@native_function`"
    )
    assert "there is no file" in _mistake(str(tmp_path / "none.py"))
    assert "there is no module 'no_such_module'; install it" in _mistake("no_such_module")
    assert "there is no native function in it" in _mistake("json")
    assert "it names no module; write" in _mistake(":search")


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("1 / 0", "module 'broken' cannot be imported: ZeroDivisionError: division by zero; mend it"),
        ("def f(:", "module 'broken' cannot be imported: SyntaxError"),
        ("import no_such_module", "there is no module 'no_such_module'; install it"),
        (
            "from parrot_mq import native_function\n@native_function\ndef f(x: int) -> str: ...",
            "parameter `x` is annotated `int`, which is neither text nor variable; annotate it as `str`",
        ),
    ],
)
def test_a_mistake_in_the_code_is_told(code: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(code)
    assert problem in _mistake(str(tmp_path / "broken.py"))


def test_two_functions_of_one_name_are_refused(tools: str, tmp_path: Path) -> None:
    (tmp_path / "others.py").write_text(TOOLS)
    problem = "two functions are called 'search'; give one another name: `name=…`"
    assert _mistake(tools, str(tmp_path / "others.py")) == problem


def test_a_file_that_is_called_as_a_module_that_is_loaded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(TOOLS)
    assert "a module 'json' was loaded before" in _mistake(str(tmp_path / "json.py"))


def test_help_teaches_by_an_example() -> None:
    done = _run("--help")
    assert "@native_function" in done.stdout
    assert "parrot-mq native tools.py" in done.stdout


# -- what others are told --------------------------------------------------------------------------------------------


def _statistics(counts: ServedCounts) -> HostStatistics:
    return HostStatistics(name="host", concurrency=2, functions={"search": counts.statistics()})


def test_a_host_whose_places_are_all_lost_is_stuck_after_a_while() -> None:
    counts, now = ServedCounts(), 0.0
    condition = HostCondition(lambda: _statistics(counts), lambda: now)
    assert (condition.read().phase, condition.read().is_alive) == ("starting", True)
    condition.phase = "ready"
    counts.num_overdue = 1
    now = 10 * STUCK_S
    assert condition.read().is_alive
    assert condition.read().status == "search: 0/2 running, 1 do not return"
    counts.num_overdue = 2
    now += STUCK_S - 1
    assert condition.read().is_alive
    now += 2
    assert not condition.read().is_alive
    counts.num_overdue = 0
    assert condition.read().is_alive


def test_metrics_say_how_calls_stand_and_how_they_ended() -> None:
    counts = ServedCounts(num_waiting=1, num_running=2, num_overdue=3)
    counts.num_ended["returned"] = 4
    counts.duration.observe(0.2)
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in NativeCollector(lambda: _statistics(counts)).collect()
        for sample in family.samples
    }
    assert samples["parrot_native_host_places",] == 2
    assert samples["parrot_native_host_calls", "search", "waiting"] == 1
    assert samples["parrot_native_host_calls", "running", "search"] == 2
    assert samples["parrot_native_host_calls", "overdue", "search"] == 3
    assert samples["parrot_native_host_ended_total", "returned", "search"] == 4
    assert samples["parrot_native_host_duration_seconds_sum", "search"] == pytest.approx(0.2)
