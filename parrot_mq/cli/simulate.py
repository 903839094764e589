"""`parrot-mq simulate`: what the autoscaler would make of some work, in virtual time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from parrot_mq.autoscale import PolicyConfig
from parrot_mq.autoscale.queue_length import QueueLengthScaler
from parrot_mq.autoscale.simulated_pool import Engine
from parrot_mq.autoscale.simulator import Moment, Outcome, Policy, simulate
from parrot_mq.autoscale.workload import SCENARIOS, Arrival, Scenario, make_arrivals, read_trace
from parrot_mq.errors import ConfigurationError

__all__ = ["compare", "make_config", "simulate_command"]

PIPE_WIDTH = 140
"""Columns where there is no terminal to ask."""
TAIL_S = 900.0
"""Seconds that go on after the last line of a trace: giving up the workers is part of what it costs."""
OURS, COUNTING = "parrot-mq", "queue length"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one scaler made of one scenario, in the mean over the seeds."""

    scenario: str
    scaler: str
    p95_wait_s: float
    mean_wait_s: float
    gpu_hours: float
    starts: float
    unfinished: int


@dataclass(frozen=True, kw_only=True)
class _Case:
    """Something that comes, once for each seed."""

    scenario: Scenario
    arrivals: Sequence[Sequence[Arrival]]


def simulate_command(
    scenario: Annotated[
        list[str] | None, typer.Option(help="A scenario by name; may be repeated.", show_default="all")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="Take what comes from a CSV file: at, prompt_tokens, output_tokens; class, prefix, ..."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Run each scenario so many times.")] = 5,
    load: Annotated[float, typer.Option(min=0, help="Seconds that a worker takes to be ready.")] = 60.0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the policy, as in its file.")
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A property of the workers: num_slots, base_s, read_s, prefill_s."),
    ] = None,
    decisions: Annotated[bool, typer.Option(help="Print each change and its reason instead, for one seed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures for programs.")] = False,
) -> None:
    """Simulate the autoscaler on scenarios, or on a trace of your own, before it touches a machine.

    Next to it runs a scaler that only counts messages, as KEDA does, with one worker for as many as it has slots.
    `wait` is the time until a generation has a slot; GPU-hours count loading and draining, too. Nothing is started, no
    server is needed.
    """
    workers = Engine(**_parse(engine or [], Engine))
    config = make_config([f"default_slots={workers.num_slots}", *(settings or [])])
    cases = list(_cases(scenario or [], trace, seeds))
    if decisions:
        _print_decisions(cases, config, workers, load)
        return
    figures = [each for case in cases for each in compare(case, config, workers, load)]
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode([asdict(each) for each in figures]), indent=2).decode())
    else:
        _console().print(_make_table(figures))


def make_config(settings: Sequence[str]) -> PolicyConfig:
    """Settings from `name=value`; the last one counts.

    Raises:
        ConfigurationError: There is no such setting, or the value does not fit.
    """
    return PolicyConfig(**_parse(settings, PolicyConfig))


def _parse(settings: Sequence[str], cls: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {field.name: field.default for field in fields(cls)}
    found = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in defaults:
            raise ConfigurationError(f"there is no setting {name!r}; there are {', '.join(defaults)}")
        try:
            found[name] = type(defaults[name])(value)
        except ValueError as error:
            raise ConfigurationError(f"{name} must be a number, got {value!r}") from error
    return found


def _cases(names: Sequence[str], trace: Path | None, seeds: int) -> Iterator[_Case]:
    if trace is not None:
        arrivals = read_trace(trace)
        duration_s = TAIL_S + (arrivals[-1].at if arrivals else 0.0)
        yield _Case(scenario=Scenario(name=trace.name, duration_s=duration_s), arrivals=[arrivals])
        return
    known = {scenario.name: scenario for scenario in SCENARIOS}
    for name in names or known:
        if name not in known:
            raise ConfigurationError(f"there is no scenario {name!r}; there are {', '.join(known)}")
        yield _Case(scenario=known[name], arrivals=[make_arrivals(known[name], seed) for seed in range(1, seeds + 1)])


def compare(case: _Case, config: PolicyConfig, engine: Engine, load_s: float) -> Iterator[Figures]:
    """Let both scalers have the same work."""
    for name in (OURS, COUNTING):
        outcomes = [_run(name, case.scenario, arrivals, config, engine, load_s) for arrivals in case.arrivals]
        yield Figures(
            scenario=case.scenario.name,
            scaler=name,
            p95_wait_s=round(fmean(each.p95_s for each in outcomes), 2),
            mean_wait_s=round(fmean(fmean(each.waits_s or [0.0]) for each in outcomes), 2),
            gpu_hours=round(fmean(each.gpu_hours for each in outcomes), 3),
            starts=round(fmean(each.num_starts for each in outcomes), 1),
            unfinished=sum(each.num_unfinished for each in outcomes),
        )


def _run(
    name: str,
    scenario: Scenario,
    arrivals: Sequence[Arrival],
    config: PolicyConfig,
    engine: Engine,
    load_s: float,
    *,
    keeps_moments: bool = False,
) -> Outcome:
    return simulate(
        arrivals,
        Policy(config) if name == OURS else QueueLengthScaler(config, engine.num_slots),
        scenario=scenario,
        num_slots=config.max_workers,
        load_s=load_s,
        engine=engine,
        takes_back=name == OURS,
        keeps_moments=keeps_moments,
    )


# -- what is printed -------------------------------------------------------------------------------------------------


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def _make_table(figures: Sequence[Figures]) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name in ("scenario", "scaler"):
        table.add_column(name)
    for name in ("wait p95", "wait mean", "GPU-hours", "starts", "unfinished"):
        table.add_column(name, justify="right", no_wrap=True)
    last = ""
    for each in figures:
        table.add_row(
            each.scenario if each.scenario != last else "",
            each.scaler,
            f"{each.p95_wait_s:.1f} s",
            f"{each.mean_wait_s:.1f} s",
            f"{each.gpu_hours:.2f}",
            f"{each.starts:.1f}",
            str(each.unfinished or ""),
        )
        last = each.scenario
    return table


def _print_decisions(cases: Sequence[_Case], config: PolicyConfig, engine: Engine, load_s: float) -> None:
    for case in cases:
        typer.echo(f"{case.scenario.name}:")
        outcome = _run(OURS, case.scenario, case.arrivals[0], config, engine, load_s, keeps_moments=True)
        for moment in outcome.moments:
            if moment.decision.change:
                typer.echo(_describe(moment))


def _describe(moment: Moment) -> str:
    decision = moment.decision
    return (
        f"  {moment.seen.now:7.0f} s  {decision.num_workers} -> {decision.target}  {decision.kind}: {decision.reason}"
    )
