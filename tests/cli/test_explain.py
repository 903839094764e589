"""`parrot-mq explain` and `parrot-mq graph`, as processes against a real server."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
from parrot_workers.testing import scripted_worker
from rich.console import Console

from parrot_mq.bus import BusConfig, NatsServer, open_bus
from parrot_mq.cli.explain import MAX_ROWS, choose, draw_explanation
from parrot_mq.client import Client
from parrot_mq.coordinator import CoordinatorConfig, open_coordinator
from parrot_mq.errors import ConfigurationError
from parrot_mq.messages import ErrorInfo, LostAttempt, SessionStory, TaskStory, Usage
from parrot_mq.program import Input, Output, semantic_function

PARROT_MQ = (sys.executable, "-m", "parrot_mq")
T = 1_000.0


@semantic_function
def describe(topic: Input, text: Output = Output()) -> None:
    """Describe {{topic}}: {{text}}"""


@semantic_function
def shorten(text: Input, short: Output = Output()) -> None:
    """Shorten {{text}}: {{short}}"""


class Finished(NamedTuple):
    """A service with a finished program: a value of `text-1` is read by `short-1`."""

    url: str
    session: str


@pytest.fixture
async def finished() -> AsyncIterator[Finished]:
    """A service on which a program has run, and its session is closed."""
    async with NatsServer() as server:
        config = BusConfig(servers=(server.url,))
        async with (
            open_bus(config) as coordinator_bus,
            open_bus(config) as worker_bus,
            open_coordinator(coordinator_bus, CoordinatorConfig(settle_s=0)),
            scripted_worker(worker_bus, lambda request: "a text", name="w0", num_slots=4),
        ):
            async with Client.connect(config=config) as client, client.session() as session:
                assert await shorten(text=describe(topic="parrots")) == "a text"
            yield Finished(server.url, session.name)


async def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(subprocess.run, [*PARROT_MQ, *arguments], capture_output=True, text=True, timeout=60)


# -- the commands ----------------------------------------------------------------------------------------------------


async def test_explain_tells_people_and_programs_what_happened(finished: Finished) -> None:
    url, session = finished
    shown = await _run("explain", session, "--servers", url)
    assert shown.returncode == 0, shown.stderr
    assert "2 outputs · 2 done" in shown.stdout
    assert "It went to w0" in shown.stdout

    story = json.loads((await _run("explain", session, "--servers", url, "--json")).stdout)
    first, second = story["stories"]
    assert (first["function"], second["function"]) == ("describe", "shorten")
    assert second["reads"] == [first["variable"]]
    assert second["last_input"] == first["variable"]

    name = second["variable"]
    alone = await _run("explain", session, "--servers", url, "--variable", name)
    assert f"{first['variable']} came last" in " ".join(alone.stdout.split())
    one = json.loads((await _run("explain", session, "--servers", url, "--json", "--variable", name)).stdout)
    assert [each["variable"] for each in one["stories"]] == [name]


async def test_graph_draws_in_the_terminal_and_as_svg(finished: Finished, tmp_path: Path) -> None:
    url, session = finished
    shown = await _run("graph", session, "--servers", url)
    assert shown.returncode == 0, shown.stderr
    assert "shorten" in shown.stdout
    assert "critical path" in shown.stdout
    picture = tmp_path / "graph.svg"
    saved = await _run("graph", session, "--servers", url, "--output", str(picture))
    assert saved.stdout == f"{picture}: 2 outputs\n"
    assert session in (ElementTree.parse(picture).findtext("{http://www.w3.org/2000/svg}title") or "")
    nowhere = await _run("graph", session, "--servers", url, "--output", str(tmp_path / "no" / "graph.svg"))
    assert nowhere.returncode == 1
    assert nowhere.stderr.startswith("error: cannot write")
    story = json.loads((await _run("graph", session, "--servers", url, "--json")).stdout)
    assert len(story["stories"]) == 2


@pytest.mark.parametrize("command", ["explain", "graph"])
async def test_a_session_of_which_nothing_is_known_is_said_to_be_so(finished: Finished, command: str) -> None:
    shown = await _run(command, "nobody", "--servers", finished.url)
    assert shown.returncode == 1
    assert shown.stdout == ""
    assert "nothing is known of session 'nobody'" in shown.stderr
    assert "since this coordinator (coordinator" in shown.stderr


async def test_what_is_no_name_is_refused(finished: Finished) -> None:
    shown = await _run("explain", "a session", "--servers", finished.url)
    assert shown.returncode == 1
    assert shown.stderr.startswith("error: ")


async def test_without_a_coordinator_the_command_says_what_to_start(nats_url: str) -> None:
    shown = await _run("explain", "demo", "--servers", nats_url)
    assert shown.returncode == 1
    assert "parrot-mq coordinator" in shown.stderr


def _watch(finished: Finished) -> int:
    """Look until the second picture is there, then press Ctrl-C."""
    command = [*PARROT_MQ, "explain", finished.session, "--servers", finished.url, "--watch", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        try:
            assert watch.stdout is not None
            titles = (line for line in watch.stdout if line.startswith(finished.session))
            assert "2 outputs" in next(titles)
            assert "2 outputs" in next(titles)
            watch.send_signal(signal.SIGINT)
            return watch.wait(20)
        finally:
            watch.kill()


async def test_explain_watches_until_ctrl_c(finished: Finished) -> None:
    assert await asyncio.to_thread(_watch, finished) == 0


# -- the picture -----------------------------------------------------------------------------------------------------


def _story(variable: str, end: float = 4.0, **details: object) -> TaskStory:
    return TaskStory(
        variable=variable,
        function="write",
        state="finished",
        submitted_at=T,
        ready_at=T + 1,
        assigned_at=T + 2,
        started_at=T + 3,
        finished_at=T + end,
        worker="w0",
        decision="holder",
        usage=Usage(num_prompt_tokens=200, num_shared_tokens=150, num_prefilled_tokens=50, num_output_tokens=9),
        **details,  # type: ignore[arg-type]
    )


def _session(*stories: TaskStory) -> SessionStory:
    return SessionStory(session="demo", at=T + 10, stories=list(stories))


def _lines(session: SessionStory, *, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(draw_explanation(session, wide=width >= 150, whole=session))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_table_has_all_that_is_known_where_there_is_room() -> None:
    lines = _lines(_session(_story("v", reads=["a"], last_input="a")), width=180)
    (row,) = [line for line in lines if line.startswith("●")]
    expected = ["●", "v", "write", "1.00", "s", "1.00", "s", "a", "w0:", "holds", "its", "prefix"]
    assert row.split() == [*expected, "200", "75%", "25%", "9", "2.00", "s", "+4.00", "s"]


@pytest.mark.parametrize("width", [60, 80, 150, 220])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    lines = _lines(_session(*(_story(f"a-long-name-of-a-variable-{n}") for n in range(5))), width=width)
    assert all(len(line) <= width for line in lines)


def test_what_is_unusual_gets_sentences_and_of_the_rest_one_of_each_stage() -> None:
    failed = TaskStory(variable="bad", state="failed", error=ErrorInfo(code="x", message="no luck"))
    moved = _story("moved", lost=[LostAttempt(worker="w9", assigned_at=T, returned_at=T + 1, reason="it drains")])
    lines = _lines(_session(*(_story(f"v{n}", end=4 + n) for n in range(5)), failed, moved), width=180)
    told = [line.split()[0] for line in lines if "It " in line]
    assert told == ["v4", "bad", "moved"]
    assert lines[-1] == "--variable NAME explains any of the 4 others"


def test_a_long_table_shows_the_newest_rows() -> None:
    lines = _lines(_session(*(_story(f"v{n}") for n in range(MAX_ROWS + 5))), width=180)
    assert "5 older outputs are left out; --json has them all" in lines
    assert sum(line.startswith("●") for line in lines) == MAX_ROWS


def test_an_output_that_is_not_there_is_refused_with_what_is() -> None:
    with pytest.raises(ConfigurationError, match=r"no output 'w' .* there is: v$"):
        choose(_session(_story("v")), "w")
