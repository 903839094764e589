"""`parrot-mq simulate`: figures for people and programs, scenarios and traces, settings by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from parrot_mq.cli.app import app
from parrot_mq.cli.simulate import make_config
from parrot_mq.errors import ConfigurationError


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["simulate", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def _figures(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(_run("--json", *arguments))
    return found


def test_both_scalers_are_compared() -> None:
    ours, counting = _figures("--scenario", "burst", "--seeds", "1")
    assert (ours["scaler"], counting["scaler"]) == ("parrot-mq", "queue length")
    assert ours["scenario"] == counting["scenario"] == "burst"
    assert ours["p95_wait_s"] < counting["p95_wait_s"]
    table = _run("--scenario", "burst", "--seeds", "1")
    assert "GPU-hours" in table
    assert f"{ours['gpu_hours']:.2f}" in table


def test_settings_are_those_of_the_policy_and_of_the_workers() -> None:
    few = _figures("--scenario", "burst", "--seeds", "1", "--set", "max_workers=2")[0]
    many = _figures("--scenario", "burst", "--seeds", "1", "--engine", "num_slots=100")[0]
    assert few["starts"] == many["starts"] == 2
    assert few["p95_wait_s"] > many["p95_wait_s"]
    slow = _figures("--scenario", "burst", "--seeds", "1", "--load", "200")[0]
    assert slow["p95_wait_s"] > 200


def test_decisions_are_explained() -> None:
    output = _run("--scenario", "burst", "--decisions")
    assert "0 -> 8  activate: 8 wanted, 0 there" in output
    assert "200 wait and 0 run" in output
    assert "to_zero" in output


def test_a_trace_of_ones_own_is_run(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("at,prompt_tokens,output_tokens\n" + "".join(f"{n},100,200\n" for n in range(300)))
    ours, _ = _figures("--trace", str(path))
    assert (ours["scenario"], ours["unfinished"]) == ("mine.csv", 0)
    assert ours["starts"] >= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "nothing=1"), "nothing"),
        (("--set", "max_workers=many"), "max_workers"),
        (("--scenario", "nowhere"), "steady, step"),
        (("--trace", "/nothing.csv"), "nothing.csv"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        CliRunner().invoke(app, ["simulate", *arguments], catch_exceptions=False)


def test_numbers_keep_their_kind() -> None:
    config = make_config(["max_workers=3", "headroom=2"])
    assert (config.max_workers, config.headroom) == (3, 2.0)
