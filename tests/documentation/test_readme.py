"""What the README and the examples say is true."""

from __future__ import annotations

import re
import runpy
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from parrot_workers.engine import GenerationRequest
from parrot_workers.metrics import WorkerCollector
from parrot_workers.testing import scripted_worker
from parrot_workers.times import GenerationTimes

from parrot_mq.actors import SystemStatistics
from parrot_mq.actors.metrics import ActorCollector
from parrot_mq.bus import BusConfig, NatsServer, open_bus
from parrot_mq.coordinator import CoordinatorConfig, CoordinatorStatistics, open_coordinator
from parrot_mq.coordinator.metrics import CoordinatorCollector, LeaderCollector
from parrot_mq.coordinator.statistics import LeaderStatistics
from parrot_mq.messages import WorkerStatus
from parrot_mq.native import HostStatistics, NativeHost, load_functions
from parrot_mq.native.metrics import NativeCollector
from parrot_mq.pipelines import Source, load_pipeline
from parrot_mq.types import Objective

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def answer(request: GenerationRequest) -> str:
    """Says which kind of prompt it was, or chooses the tool."""
    if request.text.endswith("\nTool:"):
        return " calculate\n"
    return request.text.splitlines()[0].lower()


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """A service that `Client.connect()` finds by itself."""
    async with NatsServer() as server:
        config = BusConfig(servers=(server.url,))
        async with (
            open_bus(config) as coordinator_bus,
            open_bus(config) as worker_bus,
            open_coordinator(coordinator_bus, CoordinatorConfig(settle_s=0)),
            scripted_worker(worker_bus, answer),
        ):
            monkeypatch.setenv("PARROT_MQ_SERVERS", server.url)
            yield


def _python_block(function: str) -> str:
    """The program of the README that defines a function."""
    blocks = (str(block) for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    return next(block for block in blocks if f"def {function}(" in block)


async def test_the_program_of_the_readme_runs(
    service: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(_python_block("summarise"))
    main = runpy.run_path(str(program))["main"]
    await main(["one passage", "another"])
    expected = "combine the summaries into one paragraph."
    assert capsys.readouterr().out == expected + expected + "\n"


async def test_the_map_of_the_readme_runs(service: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_python_block("extract"))
    await runpy.run_path(str(program))["main"]("a report")
    assert capsys.readouterr().out == "sum up the verdicts.\n"


async def test_the_native_functions_of_the_readme_run(
    service: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    program = tmp_path / "tools.py"
    program.write_text(_python_block("look_up"))
    async with open_bus(BusConfig.from_env()) as bus, NativeHost(bus, load_functions(str(program))):
        await runpy.run_path(str(program))["main"]("20+22")
    assert capsys.readouterr().out == "42\n"


def test_the_objectives_of_the_readme_can_be_said(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_python_block("tag"))
    functions = runpy.run_path(str(program))
    assert functions["tag"].spec.objectives == {"tags": Objective(kind="throughput")}
    assert functions["reply"].spec.objectives == {"answer": Objective(ttft_ms=500, tpot_ms=40)}


def test_the_pipeline_of_the_readme_can_be_loaded(tmp_path: Path) -> None:
    program = tmp_path / "triage.py"
    program.write_text(_python_block("triage"))
    assert load_pipeline(f"{program}:triage").source == Source(stream="TICKETS", id="/id")


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target, heading in re.findall(r"\]\(([^)#]+)#?([^)]*)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", (ROOT / target).read_text(), re.MULTILINE)
            assert heading in {title.lower().replace(" ", "-") for title in titles}, heading


def test_every_command_that_the_readme_shows_exists() -> None:
    from parrot_mq.cli.app import app

    known = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    known.add("worker")
    shown = set(re.findall(r"^(?:`?\.venv/bin/)?parrot-mq ([a-z]+)", README, re.MULTILINE))
    assert shown
    assert shown <= known, shown - known


def test_every_make_target_that_the_readme_shows_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_metric_that_the_readme_shows_is_served() -> None:
    status = WorkerStatus(worker="w", model="m", state="ready", num_slots=1)
    statistics = CoordinatorStatistics(num_unfinished=0, dispatchers={}, workers=())
    collectors = (
        WorkerCollector(lambda: status, GenerationTimes().statistics),
        CoordinatorCollector(lambda: statistics),
        LeaderCollector(lambda: LeaderStatistics(leads=True, holder="n", term=1, num_terms=1)),
        ActorCollector(lambda: SystemStatistics(node="n", actors=())),
        NativeCollector(lambda: HostStatistics(name="n", concurrency=1, functions={})),
    )
    families = [family for collector in collectors for family in collector.collect()]
    served = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    shown = set(re.findall(r"`((?:parrot|gen_ai)_[a-z_]+)`", README))
    assert len(shown) > 10
    assert shown - {"parrot_mq"} <= served, shown - served


def test_the_packages_export_what_they_define() -> None:
    import parrot_mq

    for name in parrot_mq.__all__:
        assert hasattr(parrot_mq, name), name
