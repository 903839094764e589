"""The points at which the workloads are run: the paper's figures, one scenario for each point of each figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from benchmarks.workloads import applications as apps
from benchmarks.workloads.hardware import A100_13B, A6000_7B, Hardware
from benchmarks.workloads.programs import Program

__all__ = ["FIGURES", "Figure", "Metric", "Scenario"]

Metric = Literal["jct_s", "jct_p99_s", "makespan_s", "normalized_ms", "normalized_p99_ms", "tpot_ms"]
"""As in `metrics.Statistics`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One point: what is run, on what.

    Attributes:
        x: Where it lies on the figure's axis.
        runs: Each is run by itself, on fresh workers; a job's figures are taken over all of them.
        hardware: What each worker is.
        num_workers: How many there are.
        cap_tokens: Tokens that the paper's capped baseline holds in a worker at a time; None if it is not capped.
    """

    x: float
    runs: tuple[tuple[Program, ...], ...]
    hardware: Hardware
    num_workers: int = 1
    cap_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure of the paper.

    Attributes:
        name: How it is chosen on the command line.
        number: The paper's.
        title: What is run.
        x_label: What the points differ in.
        metrics: Kind of program and metric; the first one is the figure's own.
        scenarios: Its points; asked with True, few and short ones.
        published: The paper's ratio of its capped baseline to Parrot by point, for the first metric.
        seconds: What the paper's artifact measured by point, its baseline and Parrot, in the first metric; 0 if it did
            not.
        limits: What the first metric must not exceed for a rate to be sustained.
    """

    name: str
    number: str
    title: str
    x_label: str
    metrics: tuple[tuple[str, Metric], ...]
    scenarios: Callable[[bool], Sequence[Scenario]]
    published: dict[float, float]
    seconds: dict[float, tuple[float, float]] = field(default_factory=dict)
    limits: tuple[float, ...] = ()


# -- single A100 ------------------------------------------------------------------------------------------------------


def _chains_by_output(is_quick: bool) -> list[Scenario]:
    return [_chain_alone(x, chunk=1024, output=x, is_quick=is_quick) for x in _outputs(is_quick)]


def _chains_by_chunk(is_quick: bool) -> list[Scenario]:
    chunks = (1024,) if is_quick else tuple(apps.REAL_CHUNK_TOKENS)
    return [_chain_alone(x, chunk=x, output=50, is_quick=is_quick) for x in chunks]


def _chains_text_first(is_quick: bool) -> list[Scenario]:
    return [_chain_alone(x, chunk=1024, output=x, is_quick=is_quick, is_text_first=True) for x in _outputs(is_quick)]


def _chain_alone(x: int, *, chunk: int, output: int, is_quick: bool, is_text_first: bool = False) -> Scenario:
    """One document after the other."""
    programs = [
        apps.chain_summary(
            f"document-{index}",
            document_tokens=num_tokens,
            chunk=chunk,
            output_tokens=output,
            is_text_first=is_text_first,
        )
        for index, num_tokens in enumerate(_documents(is_quick))
    ]
    return Scenario(x=x, runs=tuple((program,) for program in programs), hardware=A100_13B, cap_tokens=4096)


def _chains_with_background(is_quick: bool) -> list[Scenario]:
    scenarios = []
    for rate in (2.0,) if is_quick else (0.0, 1.0, 2.0, 3.0, 3.5):
        runs = []
        for index, num_tokens in enumerate(_documents(is_quick)):
            chain = apps.chain_summary(f"document-{index}", document_tokens=num_tokens, chunk=1024, output_tokens=50)
            # The chain begins 3 s after the background; 20 s for each step is more than it can take.
            others = apps.background(rate, duration_s=20.0 * len(chain.calls), seed=index)
            runs.append((*others, replace(chain, arrival_s=3.0)))
        scenarios.append(Scenario(x=rate, runs=tuple(runs), hardware=A100_13B, cap_tokens=4096))
    return scenarios


def _chains_at_once(is_quick: bool) -> list[Scenario]:
    scenarios = []
    for num_apps in (6,) if is_quick else (10, 15, 20, 25):
        chains = tuple(
            apps.chain_summary(
                f"document-{index}",
                document_tokens=(4_000 if is_quick else 20_000) + 300 * (index % 6),
                chunk=2048,
                output_tokens=50,
            )
            for index in range(num_apps)
        )
        scenarios.append(Scenario(x=num_apps, runs=(chains,), hardware=A100_13B, cap_tokens=4096))
    return scenarios


def _map_reduce_by_output(is_quick: bool) -> list[Scenario]:
    return [_map_reduce(x, chunk=1024, output=x, is_quick=is_quick) for x in _outputs(is_quick)]


def _map_reduce_by_chunk(is_quick: bool) -> list[Scenario]:
    chunks = (1024,) if is_quick else tuple(apps.REAL_CHUNK_TOKENS)
    return [_map_reduce(x, chunk=x, output=50, is_quick=is_quick) for x in chunks]


def _map_reduce(x: int, *, chunk: int, output: int, is_quick: bool) -> Scenario:
    programs = [
        apps.map_reduce_summary(f"document-{index}", document_tokens=num_tokens, chunk=chunk, output_tokens=output)
        for index, num_tokens in enumerate(_documents(is_quick))
    ]
    return Scenario(x=x, runs=tuple((program,) for program in programs), hardware=A100_13B, cap_tokens=4096)


def _multi_agent(is_quick: bool) -> list[Scenario]:
    return [
        Scenario(
            x=num_files,
            runs=((apps.multi_agent(num_files, num_reviews=1 if is_quick else 4),),),
            hardware=A100_13B,
            cap_tokens=7096,
        )
        for num_files in ((4,) if is_quick else (4, 8, 12, 16))
    ]


def _outputs(is_quick: bool) -> tuple[int, ...]:
    return (50,) if is_quick else (25, 50, 75, 100)


def _documents(is_quick: bool) -> tuple[int, ...]:
    return (4_000,) if is_quick else apps.DOCUMENT_TOKENS


# -- four A6000 -------------------------------------------------------------------------------------------------------


def _gpts(is_quick: bool) -> list[Scenario]:
    rates = (4.0,) if is_quick else (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    return [
        Scenario(
            x=rate,
            runs=(tuple(apps.gpts(rate, num_requests=_num_requests(rate, is_quick), seed=1)),),
            hardware=A6000_7B,
            num_workers=4,
            cap_tokens=30_000,
        )
        for rate in rates
    ]


def _num_requests(rate: float, is_quick: bool) -> int:
    """50 to 500 at each point, as in the paper: half a minute of arrivals."""
    return 20 if is_quick else max(50, min(500, round(30 * rate)))


def _mixed(is_quick: bool) -> list[Scenario]:
    scenarios = []
    for seed in range(1 if is_quick else 3):
        chats = apps.chats(6 if is_quick else 40, rate=1.0, seed=seed)
        at_s, summaries = 2.0 if is_quick else 15.0, []
        for index in range(2 if is_quick else 9):
            summary = apps.map_reduce_summary(
                f"document-{index}", document_tokens=28_000, chunk=1024, output_tokens=50, arrival_s=at_s
            )
            summaries.append(summary)
            at_s += 10.0 if index % 3 == 2 else 0.5
        scenarios.append((*chats, *summaries))
    return [Scenario(x=1, runs=tuple(scenarios), hardware=A6000_7B, num_workers=4, cap_tokens=4096)]


FIGURES = {
    figure.name: figure
    for figure in (
        Figure(
            name="chain-output",
            number="11a",
            title="Chain summary of one document, chunks of 1,024",
            x_label="output tokens",
            metrics=(("chain", "jct_s"),),
            published={25: 1.38, 50: 1.21, 75: 1.14, 100: 1.11},
            seconds={25: (56.3, 41.7), 50: (91.4, 76.2), 75: (133.0, 110.8), 100: (192.5, 145.8)},
            scenarios=_chains_by_output,
        ),
        Figure(
            name="chain-chunk",
            number="11b",
            title="Chain summary of one document, 50 output tokens",
            x_label="chunk size",
            metrics=(("chain", "jct_s"),),
            published={512: 1.2, 1024: 1.2, 1536: 1.2, 2048: 1.2},
            scenarios=_chains_by_chunk,
        ),
        Figure(
            name="chain-text-first",
            number="11a, other order",
            title="Chain summary whose prompt has the new text first",
            x_label="output tokens",
            metrics=(("chain", "jct_s"),),
            published={},
            scenarios=_chains_text_first,
        ),
        Figure(
            name="chain-background",
            number="12a",
            title="Chain summary among background requests",
            x_label="background requests/s",
            metrics=(("chain", "jct_s"),),
            published={0: 1.21, 1: 1.19, 2: 1.31, 3: 1.79, 3.5: 2.38},
            seconds={0: (100, 76), 1: (107, 94), 2: (126, 100), 3: (179, 104), 3.5: (302, 105)},
            scenarios=_chains_with_background,
        ),
        Figure(
            name="chains-at-once",
            number="12b, 13",
            title="Chain summaries at once",
            x_label="applications",
            metrics=(("chain", "jct_s"), ("chain", "makespan_s")),
            published={10: 1.38, 15: 1.52, 20: 1.63, 25: 1.68},
            seconds={10: (112.8, 81.7), 15: (171.9, 113.3), 20: (234.7, 143.7), 25: (292.9, 174.6)},
            scenarios=_chains_at_once,
        ),
        Figure(
            name="map-reduce-output",
            number="14a",
            title="Map-reduce summary, chunks of 1,024",
            x_label="output tokens",
            metrics=(("map-reduce", "jct_s"),),
            published={25: 1.70, 50: 2.04, 75: 2.22, 100: 2.37},
            seconds={25: (12.8, 7.7), 50: (19.4, 9.9), 75: (26.8, 12.2), 100: (34.3, 14.9)},
            scenarios=_map_reduce_by_output,
        ),
        Figure(
            name="map-reduce-chunk",
            number="14b",
            title="Map-reduce summary, 50 output tokens",
            x_label="chunk size",
            metrics=(("map-reduce", "jct_s"),),
            published={512: 1.96, 1024: 2.07, 1536: 2.07, 2048: 2.16},
            scenarios=_map_reduce_by_chunk,
        ),
        Figure(
            name="gpts",
            number="17",
            title="Four applications with long system prompts on four engines",
            x_label="requests/s",
            metrics=(("gpts", "normalized_ms"), ("gpts", "normalized_p99_ms")),
            published={},
            seconds={0.5: (57, 0), 1: (219, 32), 2: (775, 35), 4: (0, 44), 8: (0, 126), 16: (0, 376), 32: (0, 704)},
            limits=(200.0, 60.0),
            scenarios=_gpts,
        ),
        Figure(
            name="multi-agent",
            number="18",
            title="Multi-agent programming",
            x_label="files",
            metrics=(("multi-agent", "jct_s"),),
            published={16: 11.7},
            seconds={4: (543, 183.9), 8: (957, 195.4), 12: (1489, 205.4), 16: (1903, 213.8)},
            scenarios=_multi_agent,
        ),
        Figure(
            name="mixed",
            number="19",
            title="Chats next to map-reduce summaries on four engines",
            x_label="",
            metrics=(
                ("chat", "normalized_ms"),
                ("chat", "normalized_p99_ms"),
                ("chat", "tpot_ms"),
                ("map-reduce", "jct_s"),
                ("map-reduce", "jct_p99_s"),
            ),
            published={1: 5.5},
            seconds={1: (827.6, 149.1)},
            scenarios=_mixed,
        ),
    )
}
