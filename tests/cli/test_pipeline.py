"""`parrot-mq pipeline`: what a person sees."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from parrot_mq.bus import BusConfig, open_bus
from parrot_mq.errors import EventMismatch
from parrot_mq.messages import DeadEvent, ErrorInfo
from parrot_mq.pipelines.dead import bury_event
from parrot_mq.types import fresh_id

ROOT = Path(__file__).parents[2]

FILE = """\
name = "{name}"
[source]
stream = "{stream}"
id = "/id"
[inputs]
text = "/text"
[[steps]]
function = "tests.pipelines.programs:first"
[result]
subject = "{subject}"
"""


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "parrot_mq", "pipeline", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


def _write(folder: Path, name: str = "p", stream: str = "EVENTS", subject: str = "results.x") -> str:
    path = folder / "p.toml"
    path.write_text(FILE.format(name=name, stream=stream, subject=subject))
    return str(path)


def test_check_describes_a_pipeline(tmp_path: Path) -> None:
    done = _run("check", _write(tmp_path))
    assert done.returncode == 0
    assert "stream EVENTS (at least once)" in done.stdout
    assert "text = /text" in done.stdout


def test_check_tells_a_mistake_with_line_and_remedy(tmp_path: Path) -> None:
    path = _write(tmp_path)
    Path(path).write_text(Path(path).read_text().replace("stream", "strem"))
    done = _run("check", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {path}:3: unknown key 'strem'; did you mean 'stream'?\n"


def test_run_tells_that_there_is_no_stream(tmp_path: Path, nats_url: str) -> None:
    done = _run("run", _write(tmp_path, stream="NOWHERE"), "--servers", nats_url)
    assert done.returncode == 1
    assert done.stderr == "error: there is no stream 'NOWHERE'; create it, or name one that exists\n"


async def test_replay_lists_what_was_given_up_and_why(tmp_path: Path, nats_url: str) -> None:
    tenant = fresh_id("tenant")
    reason = ErrorInfo.from_error(EventMismatch(where="/text", problem="it is null"))
    dead = DeadEvent(pipeline="p", event_id="7", reason=reason, subject="events.x", payload=json.dumps({}).encode())
    async with open_bus(BusConfig(servers=(nats_url,))) as bus:
        await bury_event(bus, tenant, dead)
    arguments = (_write(tmp_path), "--servers", nats_url, "--tenant", tenant)
    done = _run("replay", *arguments, "--list")
    assert done.stdout.splitlines() == [
        "7  event_mismatch: the event does not fit the pipeline at /text: it is null",
        "1 events were given up",
    ]
    done = _run("replay", *arguments)
    assert (done.returncode, done.stdout) == (1, "0 results published, 0 repeated, 1 stay given up\n")


@pytest.mark.parametrize("command", ["check", "run", "replay"])
def test_each_command_says_what_it_does(command: str) -> None:
    assert "PIPELINE" in _run(command, "--help").stdout
