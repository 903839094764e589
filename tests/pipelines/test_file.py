"""Pipelines in files: each mistake is told with its line and its remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parrot_mq.errors import PipelineError
from parrot_mq.pipelines import Field, Result, Source, load_pipeline, pipeline
from parrot_mq.pipelines.file import find_line
from parrot_mq.pipelines.pipeline import mqtt_subject
from tests.native.functions import greet
from tests.pipelines import programs

GOOD = """\
name = "chain"

[source]
stream = "EVENTS"
id = "/id"

[inputs]
text = "/text"

[[steps]]
function = "tests.pipelines.programs:first"

[[steps]]
function = "tests.pipelines.programs:second"
inputs = { text = "one" }

[result]
subject = "results.chain"
fields = { answer = "two" }
"""


def _load(folder: Path, text: str) -> str:
    """Load a file; returns what is wrong with it."""
    path = folder / "p.toml"
    path.write_text(text)
    with pytest.raises(PipelineError) as raised:
        load_pipeline(str(path))
    return raised.value.message.removeprefix(f"{path}:")


def test_a_good_file_is_a_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(GOOD)
    loaded = load_pipeline(str(path))
    assert (loaded.name, loaded.source) == ("chain", Source(stream="EVENTS", id="/id"))
    assert loaded.inputs == {"text": Field(pointer="/text")}
    assert loaded.result == Result(subject="results.chain")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('stream = "EVENTS"', "stream = EVENTS", "4: it is not TOML: Invalid value; texts are quoted"),
        ('stream = "EVENTS"', 'strem = "EVENTS"', "4: unknown key 'strem'; did you mean 'stream'?"),
        ("[source]\n", '[source]\nmqtt = "a/b"\n', "3: say where events come from"),
        ('"EVENTS"', '"a.b"', "4: stream name 'a.b' cannot be used"),
        ('id = "/id"', 'id = "id"', "5: a JSON pointer begins with `/`: write '/id'"),
        ('id = "/id"', "id = 7", "5: Expected `str`, got `int`; mend `source.id`"),
        ('text = "/text"', 'text = "text"', "8: a JSON pointer begins with `/`: write '/text'"),
        ('text = "/text"', 'text = { pointr = "/x" }', "8: unknown key 'pointr'; did you mean 'pointer'?"),
        ('text = "/text"', 'txt = "/text"', "11: nobody writes 'text', which `first` reads as 'text'; did you mean"),
        ("programs:first", "programs:fist", "11: there is no 'fist' in module"),
        ("programs:first", "programs:chain", "11: 'tests.pipelines.programs:chain' is no semantic or native function"),
        ("tests.pipelines.programs:first", "nowhere:first", "11: there is no module 'nowhere'; install it"),
        ("tests.pipelines.programs:first", "first", "11: 'first' names no function; write `module:name`"),
        ('inputs = { text = "one" }', "map = true", "15: `second` reads no list that it could go through; read"),
        ('{ text = "one" }', '{ tex = "one" }', "15: `second` has no input 'tex'; did you mean 'text'?"),
        ('{ text = "one" }', '{ text = "on" }', "15: nobody writes 'on', which `second` reads as 'text'; did you mean"),
        ('inputs = { text = "one" }', 'outputs = { two = "one" }', "15: 'one' is written twice; name it anew"),
        ('inputs = { text = "one" }', 'outputs = { tow = "x" }', "15: `second` has no output 'tow'; did you mean"),
        ('subject = "results.chain"\n', "", "17: table `result` has no 'subject'; add `subject = …`"),
        ('"results.chain"', '"results.*"', "18: subject name 'results.*' cannot be used"),
        ('"two"', '"tow"', "19: nobody writes 'tow'; did you mean 'two'?"),
        ('name = "chain"', 'name = "a b"', "1: pipeline name 'a b' cannot be used"),
        ('name = "chain"', f'name = "{"x" * 40}"', "1: pipeline"),
        ("[result]\n", '[limits]\nconcurrency = 0\n[result]\n', "18: concurrency is between 1 and 10000, got 0"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_line_and_remedy(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    assert _load(tmp_path, GOOD.replace(old, new, 1)).startswith(expected)


def test_a_step_may_be_a_native_function(tmp_path: Path) -> None:
    step = """\
name = "greet"
[source]
stream = "EVENTS"
id = "/id"
[inputs]
name = "/text"
[[steps]]
function = "tests.native.functions:greet"
[result]
subject = "results.greet"
"""
    path = tmp_path / "pipeline.toml"
    path.write_text(step)
    assert list(load_pipeline(str(path)).inputs) == ["name"]
    declared = pipeline(source=Source(stream="EVENTS", id="/id"), inputs={"name": "/text"}, result=Result(subject="r"))
    assert declared(greet).name == "greet"


@pytest.mark.parametrize("target", ["nowhere.toml", "nowhere:x", "tests.pipelines.programs:first", "x", "a.py:b"])
def test_what_is_no_pipeline_is_refused(target: str) -> None:
    with pytest.raises(PipelineError, match=target.partition(":")[0].removesuffix(".py")):
        load_pipeline(target)


def test_a_pipeline_in_python_is_found() -> None:
    assert load_pipeline("tests.pipelines.programs:echo") is programs.echo


@given(st.lists(st.sampled_from(["", "# a comment", "x = 1", "y = [1, 2]"]), max_size=8))
def test_the_line_of_a_key_is_found_whatever_stands_around_it(lines: list[str]) -> None:
    text = "\n".join(["[before]", *lines, "[source]", *lines, "", 'stream = "X"', *lines, "[after]", *lines])
    assert text.splitlines()[find_line(text, "source.stream") - 1] == 'stream = "X"'
    assert text.splitlines()[find_line(text, "source.missing") - 1] == "[source]"


def test_the_program_has_to_take_the_inputs() -> None:
    with pytest.raises(PipelineError, match="name the inputs as its parameters: text"):
        pipeline(source=Source(subject="a"), inputs={"txt": "/x"}, result=Result(subject="b"))(programs.first)


def test_results_must_not_be_events_again() -> None:
    with pytest.raises(PipelineError, match="results would be events again"):
        pipeline(source=Source(subject="a.>"), inputs={"text": ""}, result=Result(subject="a.b"))(programs.first)


@pytest.mark.parametrize(
    ("topic", "subject"), [("a/b", "a.b"), ("a/+/c", "a.*.c"), ("a/#", "a.>"), ("a.b/c", "a//b.c")]
)
def test_an_mqtt_topic_is_a_subject(topic: str, subject: str) -> None:
    assert mqtt_subject(topic) == subject
