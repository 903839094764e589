"""The demo's application without a model, and what it makes of events."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parrot_workers.engine import GenerationRequest
from parrot_workers.testing import local_service
from rich.console import Console

from parrot_mq.cli.demo import Recorder, Result, expected_result, find_largest, read_records
from parrot_mq.cli.demo.application import PEAKS, Records
from parrot_mq.clock import SystemClock
from parrot_mq.errors import ConfigurationError, GenerationAborted
from parrot_mq.messages import TaskEvent


def answer(request: GenerationRequest) -> str:
    """What the tiny model is trained to answer, by regular expressions."""
    prompt = request.text
    if match := re.search(r"What is the (.+)\?", prompt):
        field = re.search(rf"^{match[1]}: (.+)$", prompt, re.MULTILINE)
        assert field is not None
        return field[1]
    if match := re.search(r"First: (.*)\nSecond: (.*)\n", prompt):
        first, second = match.groups()
        if "larger" in prompt:
            return str(max(int(first), int(second)))
        return f"{first} {second}" if "Join" in prompt else "yes" if first == second else "no"
    match = re.search(r"Text: (.*)\n", prompt)
    assert match is not None
    return match[1].upper()


async def _run(records: Records) -> str:
    async with local_service(answer) as client, client.session():
        return await (await find_largest(records))


async def test_the_graph_finds_what_plain_python_finds() -> None:
    records = read_records(PEAKS, field="height", label="name")
    assert await _run(records) == expected_result(records) == "EVEREST 8849"


@pytest.mark.parametrize("num_records", [1, 2, 3, 7])
async def test_any_number_of_records_can_be_reduced(tmp_path: Path, num_records: int) -> None:
    file = tmp_path / "records.txt"
    file.write_text("\n\n".join(f"product: thing {n}\nprice: {n * 7 % 10 + 1}" for n in range(num_records)))
    records = read_records(file, field="price", label="product")
    assert await _run(records) == expected_result(records)


async def test_a_model_that_contradicts_itself_is_an_error_and_not_a_hang() -> None:
    records = Records(("name: A\nheight: 1", "name: B\nheight: 2"), "height", "name")
    async with local_service(lambda request: "no") as client, client.session():
        with pytest.raises(GenerationAborted, match="the model has made a mistake"):
            await find_largest(records)


def test_a_file_without_records_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "empty.txt"
    file.write_text("\n\n")
    with pytest.raises(ConfigurationError, match="there are no records"):
        read_records(file, field="height", label="name")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        read_records(file, field="height", label="name")


LIFE = [
    TaskEvent(kind="submitted", task="t", variable="v", function="read", reads=["u"], at=1.0),
    TaskEvent(kind="ready", task="t", variable="v", at=2.0),
    TaskEvent(kind="assigned", task="t", variable="v", batch="b", worker="w", at=3.0),
    TaskEvent(kind="started", task="t", variable="v", num_prompt_tokens=10, num_shared_tokens=4, at=4.0),
    TaskEvent(
        kind="finished", task="t", variable="v", num_prompt_tokens=10, num_shared_tokens=4, num_output_tokens=3, at=5.0
    ),
]


@given(st.permutations(LIFE))
def test_events_may_come_in_any_order(events: list[TaskEvent]) -> None:
    recorder = Recorder("s", SystemClock())
    for event in events:
        recorder.add(event)
    assert recorder.is_complete
    (story,) = recorder.story().stories
    assert (story.function, story.state, story.batch) == ("read", "finished", "b")
    assert story.finished_at - story.ready_at == 3.0
    assert story.usage is not None
    usage = story.usage
    assert (usage.num_prompt_tokens, usage.num_shared_tokens, usage.num_output_tokens) == (10, 4, 3)


async def test_waiting_for_the_last_event_ends_with_it() -> None:
    recorder = Recorder("s", SystemClock())
    recorder.add(LIFE[0])
    assert not await recorder.wait_complete(0.01)
    recorder.add(LIFE[-1])
    assert await recorder.wait_complete(1)


def test_the_picture_of_a_run_is_saved_as_svg(tmp_path: Path) -> None:
    recorder = Recorder("s", SystemClock())
    for event in LIFE:
        recorder.add(event)
    Result(recorder.story(), "A 1", "A 1").save(tmp_path / "demo.svg")
    root = ElementTree.parse(tmp_path / "demo.svg").getroot()
    assert root.tag.endswith("svg")


@pytest.mark.parametrize(("answer", "said"), [("A 1", "finds the same"), ("B 2", "has made a mistake")])
def test_the_answer_is_compared_with_what_plain_python_finds(answer: str, said: str) -> None:
    canvas = Console(file=io.StringIO(), width=100, record=True)
    Result(Recorder("s", SystemClock()).story(), answer, "A 1").show(canvas)
    assert said in canvas.export_text()
