"""The whole service as a process tree: what a user starts, kills and stops."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from parrot_mq import Client
from parrot_mq.bus import NatsServer
from parrot_mq.cli.children import Child
from parrot_mq.cli.demo import expected_result, find_largest, read_records
from parrot_mq.cli.demo.application import PEAKS
from parrot_mq.cli.stack import Stack, StackOptions, open_stack
from parrot_mq.errors import ProcessFailed
from tests.coordinator.service import eventually
from tests.native.functions import greet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PARROT_MQ = (sys.executable, "-m", "parrot_mq")


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    """nats-server, coordinator and a worker with the tiny model."""
    async with open_stack(StackOptions(log_level="info")) as running:
        yield running


async def test_a_coordinator_killed_in_the_middle_changes_nothing_of_the_result(stack: Stack) -> None:
    records = read_records(PEAKS, field="height", label="name")
    async with Client.connect(stack.url) as client, client.session() as session:
        seen: asyncio.Queue[str] = asyncio.Queue()

        async def count(delivery: object) -> None:
            seen.put_nowait("value")

        await client.bus.subscribe(f"pmq.default.set.{session.name}.>", count)
        application = asyncio.get_running_loop().create_task(_run(records))
        for num_values in (5, 25, 45):
            while num_values > 0:
                await seen.get()
                num_values -= 1
            killed = await _process_of(stack.coordinator)
            killed.send_signal(signal.SIGKILL)
            await killed.wait()
        assert await application == expected_result(records)


async def _process_of(child: Child) -> asyncio.subprocess.Process:
    """The process that runs now; after a kill, the next one."""
    await eventually(lambda: child.process is not None and child.process.returncode is None)
    assert child.process is not None
    return child.process


async def test_native_functions_are_served_beside_the_service() -> None:
    options = StackOptions(num_workers=0, native=("tests/native/functions.py:greet",))
    async with open_stack(options) as stack, Client.connect(stack.url) as client, client.session():
        assert await greet("Ada") == "Hello Ada"
        (host,) = stack.hosts
        assert host.process is not None
        killed = host.process
        killed.send_signal(signal.SIGKILL)
        await killed.wait()
        assert await greet.using(attempt_timeout_s=5)("Bob") == "Hello Bob"


async def test_native_functions_that_cannot_be_served_end_the_service_with_the_reason() -> None:
    with pytest.raises(ProcessFailed, match=r"there is no file '.*/nowhere.py'; name a Python file"):
        async with open_stack(StackOptions(num_workers=0, native=("nowhere.py",))):
            await asyncio.Event().wait()


async def test_a_worker_killed_in_the_middle_changes_nothing_of_the_result() -> None:
    records = read_records(PEAKS, field="height", label="name")
    async with (
        open_stack(StackOptions(num_workers=2)) as stack,
        Client.connect(stack.url) as client,
        client.session() as session,
    ):
        first_value = asyncio.Event()

        async def see(delivery: object) -> None:
            first_value.set()

        await client.bus.subscribe(f"pmq.default.set.{session.name}.>", see)
        application = asyncio.get_running_loop().create_task(_run(records))
        await first_value.wait()
        killed = stack.workers[0].process
        assert killed is not None
        killed.send_signal(signal.SIGKILL)
        assert await application == expected_result(records)


def test_the_demo_command_shows_graph_figures_and_the_right_answer(tmp_path: Path) -> None:
    result = _parrot_mq("demo", "--svg", str(tmp_path / "demo.svg"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "answer of the model: EVEREST 8849\nplain Python finds the same" in result.stdout
    for stage, num_tasks in (("read_field", 48), ("larger", 23), ("is_same", 24), ("upper_case", 1), ("all", 97)):
        assert re.search(rf"^ *{stage} +{num_tasks} ", result.stdout, re.MULTILINE), result.stdout
    shared = re.search(r"^ *read_field .*? ([0-9,]+) \([0-9]+%\)", result.stdout, re.MULTILINE)
    assert shared is not None
    assert int(shared[1].replace(",", "")) > 1_000, "the records are read once for both of their questions"
    assert "</svg>" in (tmp_path / "demo.svg").read_text()


def test_a_program_runs_with_a_service_of_its_own(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    result = _parrot_mq("run", str(program), "parrots")
    assert (result.returncode, result.stdout) == (3, "PARROTS\n"), result.stderr


PROGRAM = '''
import asyncio, sys
from parrot_mq import Client, Input, Output, semantic_function

@semantic_function
def upper_case(text: Input, capitals: Output = Output(max_tokens=64, stop="\\n")) -> None:
    """Write the text in upper case.
    Text: {{text}}
    Answer: {{capitals}}"""

async def main() -> None:
    async with Client.connect() as client, client.session():
        print(await upper_case(text=sys.argv[1]))

asyncio.run(main())
sys.exit(3)
'''


async def _run(records) -> str:  # type: ignore[no-untyped-def]
    return await (await find_largest(records))


@contextmanager
def _running_up() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*PARROT_MQ, "up", "--port", "0"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


@pytest.fixture
def up() -> Iterator[subprocess.Popen[str]]:
    """`parrot-mq up` on a free port, as a user starts it."""
    with _running_up() as process:
        yield process


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where one `parrot-mq up` serves all tests that leave it as it was."""
    with _running_up() as process:
        yield _wait_ready(process)


def _wait_ready(up: subprocess.Popen[str]) -> str:
    assert up.stderr is not None
    for line in up.stderr:
        if match := re.search(r"ready.* at (nats://\S+),", line):
            return match[1]
    raise AssertionError("`parrot-mq up` ended before it was ready")


def _children(pid: int) -> list[int]:
    """Processes below `pid`, from /proc."""
    below: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        below.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for child in below.get(waiting.pop(), []):
            found.append(child)
            waiting.append(child)
    return found


def _wait_gone(pids: list[int]) -> None:
    for pid in pids:
        while Path(f"/proc/{pid}").exists() and _state(pid) != "Z":
            os.sched_yield()


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_stops_everything_cleanly(up: subprocess.Popen[str]) -> None:
    _wait_ready(up)
    children = _children(up.pid)
    assert len(children) >= 3
    up.send_signal(signal.SIGINT)
    assert up.wait(60) == 0
    _wait_gone(children)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_is_left_running_when_up_is_killed(up: subprocess.Popen[str]) -> None:
    _wait_ready(up)
    children = _children(up.pid)
    up.kill()
    _wait_gone(children)


def test_doctor_finds_a_running_service_well(url: str) -> None:
    result = _parrot_mq("doctor", "--servers", url)
    assert result.returncode == 0, result.stdout
    for line in ("server", "version", "JetStream", "streams", "clocks", "coordinator", "workers"):
        assert re.search(rf"^ok +{line}", result.stdout, re.MULTILINE), result.stdout
    assert "1 of 1 ready, 64 slots, models: tiny" in result.stdout
    assert re.search(r"^ok +worker-0 +tiny, ready, 0 of 64 slots in use", result.stdout, re.MULTILINE), result.stdout


def test_set_and_get_need_no_other_tool(url: str) -> None:
    assert _parrot_mq("set", "demo", "topic", "parrots", "--servers", url).returncode == 0
    assert _parrot_mq("get", "demo", "topic", "--servers", url).stdout == "parrots\n"
    second = _parrot_mq("set", "demo", "topic", "crows", "--servers", url)
    assert second.returncode == 1
    assert "variable 'topic' is set already, to another value" in second.stderr


# -- bad input -------------------------------------------------------------------------------------------------------


def _parrot_mq(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PARROT_MQ_")}
    return subprocess.run([*PARROT_MQ, *arguments], capture_output=True, text=True, timeout=120, env=environment)


def _assert_fails(result: subprocess.CompletedProcess[str], *words: str) -> None:
    output = result.stdout + result.stderr
    assert result.returncode == 1, output
    assert "Traceback" not in output
    for word in words:
        assert word in output


async def test_a_port_in_use_is_named_with_its_remedy() -> None:
    async with NatsServer() as server:
        result = await asyncio.to_thread(_parrot_mq, "up", "--port", str(server.port))
    _assert_fails(result, f"port {server.port}", "is in use", "choose another port")


def test_a_folder_that_is_no_checkpoint_ends_up_with_a_clear_error(tmp_path: Path) -> None:
    _assert_fails(_parrot_mq("up", "--port", "0", "--model", str(tmp_path)), "cannot load a model", "config.json")


async def test_a_server_without_jetstream_is_named_with_its_remedy() -> None:
    async with NatsServer(jetstream=False) as server:
        result = await asyncio.to_thread(_parrot_mq, "coordinator", "--servers", server.url)
        diagnosis = await asyncio.to_thread(_parrot_mq, "doctor", "--servers", server.url)
    _assert_fails(result, "JetStream is not available", "`-js`")
    assert diagnosis.returncode == 1
    assert re.search(r"^FAIL JetStream", diagnosis.stdout, re.MULTILINE), diagnosis.stdout


def test_no_server_is_named_with_the_command_that_starts_one() -> None:
    commands = (("get", "s", "v"), ("set", "s", "v", "x"), ("coordinator",), ("demo",), ("doctor",))
    with ThreadPoolExecutor() as threads:  # each waits for seconds
        for result in threads.map(lambda command: _parrot_mq(*command, "--servers", "nats://127.0.0.1:9"), commands):
            _assert_fails(result, "nats://127.0.0.1:9", "parrot-mq up")


def test_a_name_with_illegal_characters_is_refused_with_the_rule() -> None:
    _assert_fails(_parrot_mq("set", "my session", "v", "x"), "session name 'my session'", "A-Z a-z 0-9 _ -")
    _assert_fails(_parrot_mq("get", "s", "a.b"), "variable name 'a.b'")


def test_a_file_that_the_demo_cannot_use_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "records.txt"
    file.write_text("name: A\nheight: 1\n\nname: B\nheight: tall\n")
    _assert_fails(_parrot_mq("demo", str(file)), f"{file}:4", "'tall'", "whole number")
    _assert_fails(_parrot_mq("demo", str(file), "--field", "depth"), f"{file}:1", "no field 'depth'", "name, height")
    _assert_fails(_parrot_mq("demo", str(tmp_path / "none.txt")), "No such file")


@pytest.mark.parametrize(
    "command", ["up", "demo", "run", "coordinator", "worker", "workers", "set", "get", "watch", "doctor"]
)
def test_every_command_teaches_its_use(command: str) -> None:
    result = _parrot_mq(command, "--help")
    assert result.returncode == 0
    assert "Usage:" in result.stdout
