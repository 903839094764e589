"""What comes, in a simulation: scenarios by seed, and traces of an operator's own."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

from parrot_mq.errors import ConfigurationError

__all__ = ["SCENARIOS", "Arrival", "Scenario", "Texts", "make_arrivals", "read_trace"]


class Arrival(NamedTuple):
    """A generation that becomes ready.

    Attributes:
        at: When, in seconds from the beginning.
        num_prompt: Tokens of its prompt that only it has.
        num_output: Tokens that it will generate.
        max_tokens: Tokens that it may generate: all that is known of it before.
        kind: Whether somebody waits for it.
        prefix: What its prompt begins with, which others with the same name have too; empty if nothing.
        num_prefix: Tokens of that.
    """

    at: float
    num_prompt: int
    num_output: int
    max_tokens: int
    kind: Literal["latency", "throughput"] = "latency"
    prefix: str = ""
    num_prefix: int = 0


@dataclass(frozen=True, kw_only=True)
class Texts:
    """How long prompts and outputs are. Outputs are log-normal.

    Attributes:
        num_prompt: Tokens of a prompt.
        mean_output: Tokens of an output, in the mean.
        spread: Standard deviation of outputs, as a part of the mean.
        max_tokens: What is asked for at most.
        num_prefix: Tokens that all prompts of a program begin with.
        num_programs: So many programs, each with a prefix of its own.
        throughput_share: So much of it only has to be finished some time.
    """

    num_prompt: int = 300
    mean_output: int = 400
    spread: float = 0.5
    max_tokens: int = 1600
    num_prefix: int = 0
    num_programs: int = 4
    throughput_share: float = 0.0

    def draw(self, at: float, rng: random.Random) -> Arrival:
        """One of them."""
        sigma = math.sqrt(math.log(1 + self.spread**2))
        num_output = round(rng.lognormvariate(math.log(self.mean_output) - sigma**2 / 2, sigma))
        prefix = f"program-{rng.randrange(self.num_programs)}" if self.num_prefix else ""
        return Arrival(
            at,
            self.num_prompt,
            min(self.max_tokens, max(1, num_output)),
            self.max_tokens,
            "throughput" if rng.random() < self.throughput_share else "latency",
            prefix,
            self.num_prefix,
        )


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What comes, and what goes wrong.

    Attributes:
        name: One or two words.
        rate: Generations in a second, by the time in seconds.
        duration_s: So long something may come.
        bursts: When how many come at once.
        texts: How long they are.
        load_s: Seconds that a worker takes to be ready; None leaves that to who runs the simulation.
        bad_slots: So many of the slots never start a worker.
        outages: From when to when nothing is seen of the work.
    """

    name: str
    rate: Callable[[float], float] = lambda at: 0.0
    duration_s: float = 3600.0
    bursts: tuple[tuple[float, int], ...] = ()
    texts: Texts = Texts()
    load_s: float | None = None
    bad_slots: int = 0
    outages: tuple[tuple[float, float], ...] = ()


def _day(at: float) -> float:
    """A day in six hours: little at night, most in the afternoon."""
    return 2.05 - 1.95 * math.cos(2 * math.pi * at / 21600)


SCENARIOS = (
    Scenario(name="steady", rate=lambda at: 2.0),
    Scenario(name="step", rate=lambda at: 0.5 if at < 1200 else 4.0),
    Scenario(name="on/off 90 s", rate=lambda at: 4.0 if at % 180 < 90 else 0.0),
    Scenario(name="on/off 400 s", rate=lambda at: 4.0 if at % 800 < 400 else 0.0),
    Scenario(name="burst", bursts=((300.0, 200),)),
    Scenario(name="overload", rate=lambda at: 12.0 if at < 1200 else 0.5),
    Scenario(name="slow loads", rate=lambda at: 0.5 if at < 1200 else 4.0, load_s=240.0),
    Scenario(name="failing slots", rate=lambda at: 2.0, bad_slots=2),
    Scenario(name="outage", rate=lambda at: 1.0 if at < 1800 else 3.0, outages=((900.0, 1080.0), (2400.0, 2580.0))),
    Scenario(name="day", rate=_day, duration_s=21600.0),
    Scenario(
        name="short and shared",
        rate=lambda at: 1.0,
        bursts=((600.0, 400), (2400.0, 400)),
        texts=Texts(num_prompt=100, mean_output=40, max_tokens=160, num_prefix=3000, throughput_share=0.7),
    ),
)
"""By default: 1 h (the day: 6 h), one worker does about one generation a second."""


def make_arrivals(scenario: Scenario, seed: int) -> list[Arrival]:
    """What comes, in the order of time: a Poisson process with the scenario's rate, and its bursts."""
    rng = random.Random(f"{scenario.name}:{seed}")
    times = [*_poisson(scenario.rate, scenario.duration_s, rng)]
    times += [at for at, num in scenario.bursts for _ in range(num)]
    return [scenario.texts.draw(at, rng) for at in sorted(times)]


def _poisson(rate: Callable[[float], float], duration_s: float, rng: random.Random) -> Iterator[float]:
    """Thinning: come as often as ever, and leave out what is too much at the time."""
    most = max(rate(float(at)) for at in range(0, math.ceil(duration_s), 10))
    at = 0.0
    while most > 0 and (at := at + rng.expovariate(most)) < duration_s:
        if rng.random() < rate(at) / most:
            yield at


# -- traces ----------------------------------------------------------------------------------------------------------


def read_trace(path: Path) -> list[Arrival]:
    """Read what came from a CSV file with a header.

    Columns: `at` (seconds), `prompt_tokens`, `output_tokens`; if wanted `max_tokens` (else what it generated), `class`
    (`latency`, which is the default, or `throughput`), `prefix` (a name) with `prefix_tokens`.

    Raises:
        ConfigurationError: The file cannot be read, or a value is malformed; names the line.
    """
    try:
        with path.open(newline="") as file:
            return sorted(_parse(csv.DictReader(file), path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"cannot read the trace {path}: {error}") from error


def _parse(rows: Iterable[dict[str, str | None]], path: Path) -> Iterator[Arrival]:
    for number, row in enumerate(rows, start=2):
        try:
            yield _arrival(row)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"{path}, line {number}: expected numbers at, prompt_tokens, output_tokens, got {row} ({error})"
            ) from error


def _arrival(row: dict[str, str | None]) -> Arrival:
    def number(name: str, default: str | None = None) -> int:
        found = int(row.get(name) or default or row[name] or "")
        if found < 0:
            raise ValueError(f"{name} must not be negative")
        return found

    at, kind = float(row["at"] or ""), row.get("class") or "latency"
    if kind not in ("latency", "throughput") or not 0 <= at < math.inf:
        raise ValueError(f"class {kind!r} at {at}")
    num_output = max(1, number("output_tokens"))
    return Arrival(
        at,
        number("prompt_tokens"),
        num_output,
        max(num_output, number("max_tokens", str(num_output))),
        cast(Literal["latency", "throughput"], kind),
        row.get("prefix") or "",
        number("prefix_tokens", "0"),
    )
