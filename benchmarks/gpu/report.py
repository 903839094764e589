"""The results as a page to read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

__all__ = ["write_report"]

Row: TypeAlias = dict[str, Any]
Column: TypeAlias = tuple[str, Callable[[Row], str]]


def _text(name: str) -> Callable[[Row], str]:
    return lambda row: str(row.get(name, ""))


def _number(name: str, digits: int = 0, factor: float = 1.0) -> Callable[[Row], str]:
    return lambda row: f"{factor * row[name]:,.{digits}f}" if isinstance(row.get(name), int | float) else ""


def _percent(name: str) -> Callable[[Row], str]:
    return lambda row: f"{100 * row[name]:.0f} %"


_BATCH: Final[tuple[Column, ...]] = (
    ("way", _text("way")),
    ("requests", _number("num_requests")),
    ("shared", _number("num_shared")),
    ("prompt", _number("num_prompt")),
    ("new", _number("num_new")),
)
_TABLES: Final[dict[str, tuple[Column, ...]]] = {
    "kernel": (("kernel", _text("name")), ("carried", _text("is_carried")), ("load s", _number("load_s", 2))),
    "tests": tuple((name, _number(name)) for name in ("tests", "failures", "errors", "skipped", "seconds")),
    "failure": (("test", _text("test")), ("message", _text("message"))),
    "parity": (
        ("way", _text("way")),
        ("prompts", _number("num_prompts")),
        ("equal to the reference", _number("num_equal")),
        ("right", _number("num_right")),
    ),
    "attention": (
        ("groups", _number("num_groups")),
        ("readers", _number("num_readers")),
        ("shared", _number("num_shared")),
        ("plain us", _number("plain_us", 1)),
        ("cascade us", _number("cascade_us", 1)),
        ("speed-up", _number("speedup", 2)),
        ("plan ms, plain", _number("plain_plan_ms", 2)),
        ("plan ms, cascade", _number("cascade_plan_ms", 2)),
    ),
    "engine": (
        *_BATCH,
        ("prefill s", _number("prefill_s", 2)),
        ("step ms", _number("step_ms", 2)),
        ("floor ms", _number("floor_ms", 2)),
        ("of floor", _percent("share_of_floor")),
        ("decode tok/s", _number("decode_tokens_per_s")),
        ("total s", _number("seconds", 2)),
        ("output tok/s", _number("output_tokens_per_s")),
        ("tokens computed", _number("num_computed_tokens")),
    ),
    "comparator": (*_BATCH, ("total s", _number("seconds", 2)), ("output tok/s", _number("output_tokens_per_s"))),
    "kernels": (("kernel", _text("name")), ("us per step", _number("us_per_step", 1)), ("calls", _number("calls", 1))),
}
_LISTS: Final = {"kernels"}
_PLAIN: Final = {"machine", "packages", "ceilings", "model", "engine made", "cost model", "skipped", "failed", "graph"}


def write_report(outcomes: Iterable[Row]) -> str:
    """Markdown: each stage with what it told."""
    parts = ["# GPU run\n"]
    for outcome in outcomes:
        parts.append(f"## {outcome['name']}: {outcome['status']} after {outcome['seconds']:.0f} s\n")
        parts += _sections(outcome["results"])
        if outcome["tail"]:
            parts.append(f"```\n{outcome['tail']}\n```\n")
    return "\n".join(parts)


def _sections(results: Sequence[Row]) -> list[str]:
    parts, kinds = [], dict.fromkeys(result["kind"] for result in results)
    for kind in kinds:
        rows = [result for result in results if result["kind"] == kind]
        if kind in _LISTS:
            rows = [row for result in rows for row in result["rows"]]
        if kind in _TABLES:
            parts.append(_table(_TABLES[kind], rows))
        elif kind in _PLAIN:
            parts += [f"- {kind}: {_facts(row)}" for row in rows] + [""]
    return parts


def _table(columns: Sequence[Column], rows: Iterable[Row]) -> str:
    names = " | ".join(name for name, _ in columns)
    lines = [f"| {names} |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(write(row).replace("|", "/") for _, write in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _facts(row: Row) -> str:
    facts = {name: value for name, value in row.items() if name != "kind"}
    texts = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in facts.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items())
