"""From a task to generations whose prompts are known: pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pytest

from parrot_mq.bus import Delivery
from parrot_mq.coordinator import PlannedGeneration, ReadyGeneration, plan_task
from parrot_mq.coordinator.sessions.steps import fill
from parrot_mq.coordinator.sessions.task import Refusal, Task, read_task
from parrot_mq.errors import DuplicateProducer, MalformedMessage, TemplateError
from parrot_mq.messages import BlobRef, ErrorInfo, PromptTask, TaskAddress, Value, encode, encode_json
from parrot_mq.program import prefix_hashes
from parrot_mq.types import Sampling, SessionId, TaskId, TenantId, VariableId
from tests.coordinator.programs import ref, task

ADDRESS = TaskAddress(TenantId("t"), SessionId("s"), TaskId("k"))


def _plan(record: PromptTask) -> list[PlannedGeneration]:
    return [step for step in plan_task(record) if isinstance(step, PlannedGeneration)]


def _ready(
    planned: PlannedGeneration, values: Mapping[str, str | BlobRef] | None = None, *, deadline: float = 0.0
) -> ReadyGeneration:
    known = {VariableId(name): value for name, value in (values or {}).items()}
    return planned.to_ready(ADDRESS, "m", deadline, fill(planned.segments, known, {}))


def _segments(record: PromptTask, values: Mapping[str, str] | None = None) -> tuple[str | BlobRef, ...]:
    return _ready(_plan(record)[0], values).segments


def test_a_prompt_is_cut_at_its_placeholders() -> None:
    record = task("Say {{x}} to {{y}}:{{out}} ignored", reads={"x": "hi", "y": ref("who")})
    (planned,) = _plan(record)
    assert planned.segments == ("Say ", "hi", " to ", ref("who"), ":")
    assert planned.reads == ("who",)
    assert planned.writes == "out"


def test_several_outputs_are_a_chain_in_the_order_of_the_template() -> None:
    record = task("A{{a}}B{{b}}C{{c}}", writes={"c": "vc", "a": "va", "b": "vb"})
    planned = _plan(record)
    assert [each.writes for each in planned] == ["va", "vb", "vc"]
    assert [each.reads for each in planned] == [(), ("va",), ("va", "vb")]
    assert planned[2].segments == ("A", ref("va"), "B", ref("vb"), "C")


def test_the_context_of_each_output_is_the_prefix_of_the_next() -> None:
    record = task("A{{a}}B{{b}}", writes={"a": "va", "b": "vb"})
    first, second = _plan(record)
    one = _ready(first)
    two = _ready(second, {"va": "text"})
    assert two.prefix_hashes[: len(one.prefix_hashes)] == one.prefix_hashes


def test_of_a_prompt_that_is_not_ready_the_beginning_is_known() -> None:
    record = task("A{{x}}B{{y}}C{{out}}", reads={"x": ref("vx"), "y": ref("vy")})
    (planned,) = _plan(record)
    values: dict[VariableId, Value] = {VariableId("vy"): "y"}
    known = planned.known_prefixes(values)
    assert list(known) == prefix_hashes(["A"])
    assert planned.known_prefixes(values, after=known) == known
    values[VariableId("vx")] = BlobRef(digest=hashlib.sha256(b"x").hexdigest(), size_bytes=1)
    assert list(planned.known_prefixes(values, after=known)) == prefix_hashes(["A", "x", "B", "y", "C"])
    assert planned.known_prefixes(values) == planned.known_prefixes(values, after=known)
    ready = _ready(planned, {"vx": "x", "vy": "y"})
    assert planned.known_prefixes(values) == ready.prefix_hashes


def test_what_failed_is_never_part_of_a_known_beginning() -> None:
    (planned,) = _plan(task("{{x}} and{{out}}", reads={"x": ref("vx")}))
    assert planned.known_prefixes({VariableId("vx"): ErrorInfo(code="internal", message="no")}) == ()


def test_a_list_is_joined_by_its_separator_or_a_line_break() -> None:
    record = task("{{x}}|{{y}}{{out}}", reads={"x": [ref("a"), "t", ref("a")], "y": ["1", "2"]}, separators={"x": ", "})
    (planned,) = _plan(record)
    assert planned.segments == (ref("a"), ", ", "t", ", ", ref("a"), "|", "1", "\n", "2")
    assert planned.reads == ("a",), "a variable is read once"


def test_an_empty_list_and_an_empty_text_insert_nothing() -> None:
    record = task("[{{x}}{{y}}]{{out}}", reads={"x": [], "y": ""})
    assert "".join(str(segment) for segment in _segments(record)) == "[]"


def test_an_input_may_stand_in_several_places() -> None:
    record = task("{{x}} and {{x}}{{out}}", reads={"x": ref("v")})
    assert _segments(record, values={"v": "A"}) == ("A", " and ", "A")


def test_a_large_value_hashes_like_its_text() -> None:
    text = "long" * 1000
    blob = BlobRef(digest=hashlib.sha256(text.encode()).hexdigest(), size_bytes=4000)
    (planned,) = _plan(task("{{x}}!{{out}}", reads={"x": ref("v")}))
    by_text = _ready(planned, {"v": text})
    by_blob = _ready(planned, {"v": blob})
    assert by_text.prefix_hashes == by_blob.prefix_hashes == tuple(prefix_hashes([text, "!"]))
    assert by_blob.segments == (blob, "!")


def test_what_is_equal_so_far_has_equal_hashes_and_nothing_else_has() -> None:
    one = _plan(task("Context: {{c}}{{q}}{{out}}", reads={"c": "same", "q": "1"}))[0]
    other = _plan(task("Context: {{c}}{{q}}{{out}}", reads={"c": "same", "q": "2"}))[0]
    a, b = (_ready(each).prefix_hashes for each in (one, other))
    assert a[:2] == b[:2]
    assert a[2] != b[2]


def test_a_ready_generation_says_where_it_goes_and_how_it_is_sampled() -> None:
    record = task("x{{out}}", writes="v", sampling=Sampling(max_tokens=7))
    ready = _ready(_plan(record)[0], deadline=12.5)
    assert ready.key == "t.s.v"
    assert (ready.task, ready.model, ready.deadline, ready.attempt) == ("k", "m", 12.5, 1)
    assert ready.next_attempt().attempt == 2
    wire = ready.to_wire([0])
    assert (wire.key, wire.sampling.max_tokens, wire.prompt, wire.attempt) == ("t.s.v", 7, [0], 1)


@pytest.mark.parametrize(
    "template", ["{{out}}", "{{x}}", "{{x}}{{y}}{{out}}", "{{x}} {{out}} {{", "{{x}} {{out}}{{out}}"]
)
def test_a_template_that_does_not_fit_is_an_error(template: str) -> None:
    with pytest.raises(TemplateError):
        plan_task(task(template, reads={"x": "1"}))


# -- reading ---------------------------------------------------------------------------------------------------------


def _read(payload: bytes, timestamp: float = 100.0) -> Task | Refusal:
    return read_task(ADDRESS, Delivery("pmq.t.task.s.k", payload, timestamp=timestamp))


@pytest.mark.parametrize("write", [encode, encode_json])
def test_a_task_is_read_from_either_form_and_its_time_counts_from_when_it_was_stored(write: object) -> None:
    assert callable(write)
    read = _read(write(task("x{{out}}", timeout_s=5)))
    assert isinstance(read, Task)
    assert read.deadline == 105.0
    assert read.unset == {"out"}
    (node,) = read.nodes()
    assert (node.writes, node.task, node.reads) == ("out", "k", ())


def test_a_task_that_cannot_be_read_is_refused_for_its_outputs() -> None:
    refusal = _read(b'{"template": 1, "outputs": {"a": {"variable": "x"}, "b": {"variable": "!"}}}')
    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, MalformedMessage)
    assert refusal.outputs == ["x"]


def test_one_variable_for_two_outputs_is_refused() -> None:
    refusal = _read(encode(task("1{{a}}2{{b}}3{{c}}", writes={"a": "x", "b": "y", "c": "x"})))
    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, DuplicateProducer)
    assert refusal.error.variable == "x"
    assert sorted(refusal.outputs) == ["x", "y"]
