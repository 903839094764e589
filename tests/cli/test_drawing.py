"""Pictures and words for what happened to a session."""

from __future__ import annotations

import io
from itertools import pairwise
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from parrot_mq.cli.drawing import draw_graph, draw_summary, draw_svg, explain_output, find_critical_path
from parrot_mq.cli.drawing.layout import BOX_HEIGHT, BOX_WIDTH, arrange
from parrot_mq.cli.drawing.stages import MAX_BOXES, MAX_LAYERS, Picture, draw_boxes, find_stages
from parrot_mq.cli.drawing.times import measure_phases, session_interval, show_seconds
from parrot_mq.cli.drawing.words import DECISIONS
from parrot_mq.messages import ErrorInfo, LostAttempt, SessionStory, TaskStory, Usage
from parrot_mq.types import Objective

T = 1_000.0
SVG = "{http://www.w3.org/2000/svg}"


def _story(variable: str, reads: list[str] | None = None, end: float = 0.0, **details: object) -> TaskStory:
    times = {"submitted_at": T, "ready_at": T + 1, "assigned_at": T + 2, "started_at": T + 2.5} if end else {}
    state = "finished" if end else "waiting"
    given_: dict[str, object] = {"state": state, "submitted_at": T, **times, "function": "write", **details}
    finished_at = T + end if end else 0.0
    return TaskStory(variable=variable, task=f"task-{variable}", reads=reads or [], finished_at=finished_at, **given_)  # type: ignore[arg-type]


def _session(*stories: TaskStory, at: float = T + 100) -> SessionStory:
    return SessionStory(session="demo", node="coordinator", at=at, stories=list(stories))


def _map_reduce(num: int) -> list[TaskStory]:
    batched = Objective(kind="throughput")
    parts = [
        _story(f"part-{n}", ["text"], 3.0 + n / 100, objective=batched, group="default.s.whole") for n in range(num)
    ]
    reads = [part.variable for part in parts]
    return [*parts, _story("whole", reads, 20.0, function="combine", objective=Objective())]


def _chain(num: int) -> list[TaskStory]:
    return [_story(f"step-{n}", [f"step-{n - 1}"] if n else [], 3.0 + n) for n in range(num)]


_LIVES = st.tuples(
    st.sampled_from(["a", "b", "c", ""]),
    st.sampled_from(["", "default.s.g", "default.s.h"]),
    st.sampled_from([0.0, 3.0, 4.5, 9.0]),
    st.sampled_from([None, Objective(), Objective(kind="throughput")]),
    st.booleans(),
)


@st.composite
def _programs(draw: st.DrawFn) -> list[TaskStory]:
    """Any acyclic program, some of it finished."""
    stories: list[TaskStory] = []
    late = draw(st.sampled_from([0.0, 3.0, 5.0]))
    for number in range(draw(st.integers(0, 25))):
        known = [story.variable for story in stories]
        reads = draw(st.lists(st.sampled_from([*known, "input"]), max_size=4, unique=True))
        function, group, end, kind, at = draw(_LIVES)
        when = T + at * late
        known_ = {"function": function, "group": group, "objective": kind, "submitted_at": when}
        stories.append(_story(f"v{number}", reads, end, **known_))
    return stories


# -- the critical path -----------------------------------------------------------------------------------------------


def test_the_critical_path_follows_what_came_last() -> None:
    stories = [_story("a", end=3), _story("b", end=5), _story("c", ["a", "b"], 8), _story("d", ["a"], 4)]
    assert [story.variable for story in find_critical_path(stories)] == ["b", "c"]


def test_what_was_submitted_late_waited_for_the_program() -> None:
    question = _story("question", end=6)
    other = _story("other", end=3)
    late = _story("late", ["other"], 9, submitted_at=T + 7)
    assert [story.variable for story in find_critical_path([question, other, late])] == ["question", "late"]
    (arrow,) = [arrow for arrow in draw_boxes([question, other, late]).arrows if arrow.is_critical]
    assert (arrow.source, arrow.target, arrow.num) == (0, 2, 0)


def test_nothing_that_is_unfinished_is_on_the_critical_path() -> None:
    assert find_critical_path([_story("a"), _story("b", ["a"])]) == []
    assert [story.variable for story in find_critical_path([_story("a", end=3), _story("b", ["a"])])] == ["a"]


def test_a_loop_in_what_is_told_does_not_hang() -> None:
    stories = [_story("a", ["b"], 3), _story("b", ["a"], 3)]
    assert len(find_critical_path(stories)) == 2


@given(_programs())
@settings(deadline=None)
def test_the_critical_path_is_a_chain_in_which_each_step_waited_for_the_one_before(stories: list[TaskStory]) -> None:
    path = find_critical_path(stories)
    assert bool(path) == any(story.finished_at for story in stories)
    for before, after in pairwise(path):
        assert before.finished_at <= after.finished_at
        if before.finished_at <= after.submitted_at:
            continue  # the program waited
        assert before.variable in after.reads
        others = [story for story in stories if story.variable in after.reads and story.finished_at]
        assert all(other.finished_at <= before.finished_at or other.finished_at > after.finished_at for other in others)
    if path:
        assert path[-1].finished_at == max(story.finished_at for story in stories)


# -- boxes -----------------------------------------------------------------------------------------------------------


def _check_picture(picture: Picture, stories: list[TaskStory]) -> None:
    assert sorted(id(story) for box in picture.boxes for story in box.stories) == sorted(map(id, stories))
    assert len(picture.boxes) <= MAX_BOXES
    assert picture.num_layers <= MAX_LAYERS
    variables = {story.variable for story in stories}
    num_reads = sum(name in variables for story in stories for name in story.reads)
    assert sum(arrow.num for arrow in picture.arrows) + sum(box.num_inner for box in picture.boxes) == num_reads


@given(_programs())
@settings(deadline=None)
def test_every_output_is_in_one_box_and_boxes_do_not_overlap(stories: list[TaskStory]) -> None:
    picture = draw_boxes(stories)
    _check_picture(picture, stories)
    layout = arrange(picture)
    for index, (x, y) in enumerate(layout.corners):
        assert 0 <= x <= layout.width - BOX_WIDTH
        assert -0.01 <= y <= layout.height - BOX_HEIGHT + 0.01
        for other_x, other_y in layout.corners[:index]:
            assert abs(x - other_x) >= BOX_WIDTH or abs(y - other_y) >= BOX_HEIGHT


def test_a_small_program_has_a_box_for_each_output() -> None:
    picture = draw_boxes(_map_reduce(9))
    assert [len(box.stories) for box in picture.boxes] == [1] * 10
    assert [box.layer for box in picture.boxes] == [0] * 9 + [1]
    assert [arrow.is_critical for arrow in picture.arrows] == [False] * 8 + [True]


@pytest.mark.parametrize("num", [100, 5_000])
def test_what_is_alike_becomes_one_box(num: int) -> None:
    picture = draw_boxes(_map_reduce(num))
    assert [(box.stage, len(box.stories)) for box in picture.boxes] == [("write", num), ("combine", 1)]
    assert picture.boxes[0].critical == (f"part-{num - 1}",)
    assert [arrow.num for arrow in picture.arrows] == [num]


def test_many_groups_of_what_is_alike_become_one_box() -> None:
    pairs = [_story(f"v{n}", end=3, group=f"default.s.g{n // 2}") for n in range(40)]
    (box,) = draw_boxes(pairs).boxes
    assert (len(box.stories), box.group, box.num_groups) == (40, "", 20)
    assert "20 groups" in _texts(draw_svg(_session(*pairs)))


def test_a_long_loop_becomes_one_box() -> None:
    (box,) = draw_boxes(_chain(1_000)).boxes
    assert (len(box.stories), box.num_inner) == (1_000, 999)


def test_stages_that_read_each_other_in_turn_are_drawn_too() -> None:
    turns = [_story(f"v{n}", [f"v{n - 1}"] if n else [], 3.0 + n, function="ab"[n % 2]) for n in range(50)]
    picture = draw_boxes(turns)
    assert [(box.stage, box.layer) for box in picture.boxes] == [("a", 0), ("b", 1)]
    _check_picture(picture, turns)


def test_a_program_of_many_different_functions_stays_readable() -> None:
    stories = [_story(f"v{n}", [f"v{n - 1}"] if n else [], 3.0 + n, function=f"f{n}") for n in range(500)]
    picture = draw_boxes(stories)
    _check_picture(picture, stories)


def test_outputs_without_a_function_are_named_after_the_variable() -> None:
    stories = [_story("answer-1", function=""), _story("answer-2", function=""), _story("", function="")]
    assert [stage.name for stage in find_stages(stories)] == ["answer", "task-"]


# -- SVG -------------------------------------------------------------------------------------------------------------


def _texts(svg: str) -> str:
    return "\n".join(element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text"))


@given(_programs())
@settings(deadline=None, max_examples=30)
def test_any_program_can_be_drawn(stories: list[TaskStory]) -> None:
    ElementTree.fromstring(draw_svg(_session(*stories)))


def test_the_svg_shows_classes_groups_times_and_the_critical_path() -> None:
    text = _texts(draw_svg(_session(*_map_reduce(3))))
    for expected in ("demo", "part-1", "group whole", "waited 1.00 s, ran 1.00 s", "latency", "throughput"):
        assert expected in text
    assert "critical path: 20.0 s" in text
    assert "part-2 → whole" in text


def test_the_size_of_the_svg_is_bounded_however_large_the_program_is() -> None:
    assert len(draw_svg(_session(*_map_reduce(5_000)))) < 20_000


def test_names_from_outside_are_text_in_the_svg() -> None:
    svg = draw_svg(_session(_story('<script>"&', end=3, function="</svg>")))
    assert "<script>" not in svg
    assert '<script>"&' in _texts(svg)


def test_characters_that_xml_cannot_say_are_left_out() -> None:
    ElementTree.fromstring(draw_svg(_session(_story("v", end=3, function="bell\x07", reason="\ud800"))))


# -- the terminal ----------------------------------------------------------------------------------------------------


def _shown(*pictures: object, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(*pictures)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("stories", [[], _map_reduce(1), _map_reduce(9), _map_reduce(400), _chain(100)])
def test_the_terminal_drawing_fits(stories: list[TaskStory], width: int) -> None:
    text = _shown(draw_graph(_session(*stories)), width=width)
    assert all(len(line) <= width for line in text.splitlines())


def test_every_state_has_a_mark() -> None:
    states = ("waiting", "ready", "assigned", "running", "finished", "failed")
    stories = [msgspec.structs.replace(_story(f"v-{state}"), state=state) for state in states]
    assert "·○◔◑●✗" in _shown(draw_graph(_session(*stories)), width=100)


def test_bars_show_when_what_ran() -> None:
    text = _shown(draw_graph(_session(_story("a", end=5), _story("b", ["a"], 11))), width=80)
    (first,) = [line for line in text.splitlines() if line.lstrip("▸ ").startswith("a ")]
    assert first.index("░") < first.index("▒") < first.index("█")
    assert "critical path" in text


def test_the_summary_has_sums_by_stage() -> None:
    usage = Usage(num_prompt_tokens=10, num_shared_tokens=4, num_output_tokens=3)
    stories = [_story("a", end=3, usage=usage, batch="b"), _story("b", end=5, usage=usage, batch="b", function="other")]
    lines = _shown(draw_summary(_session(*stories)), width=100).splitlines()
    assert lines[-1].split() == ["all", "2", "1", "20", "8", "(40%)", "6", "4.00", "s"]


# -- words -----------------------------------------------------------------------------------------------------------


def _told(story: TaskStory) -> str:
    return " ".join(explain_output(story, T + 10))


def test_a_story_that_is_known_in_full_is_told_in_full() -> None:
    story = _story(
        "v",
        ["a", "b"],
        5.0,
        objective=Objective(tpot_ms=25.0, deadline_s=30),
        group="default.s.whole",
        last_input="b",
        prefilled_at=T + 0.5,
        prefilled_on="w2",
        worker="w2",
        batch_size=4,
        decision="continued",
        reason="it goes on after 7 tokens of an earlier attempt",
        attempts=2,
        lost=[LostAttempt(worker="w1", assigned_at=T + 1.5, returned_at=T + 1.75, reason="worker 'w1' was lost")],
        num_continued_tokens=7,
        usage=Usage(num_prompt_tokens=100, num_shared_tokens=60, num_prefilled_tokens=20, num_output_tokens=8),
    )
    assert explain_output(story, T + 10) == [
        "It is wanted soon (latency); 25 ms per further token; of use for 30.0 s, and judged together with its node "
        "group whole.",
        "It waited 1.00 s for what it reads; b came last.",
        "Meanwhile w2 was told to read the known beginning of its prompt ahead, where it ran then.",
        "It was on w1 and came back after 250 ms: worker 'w1' was lost.",
        "It went to w2 in a batch of 4: it goes on after 7 tokens of an earlier attempt.",
        "It went on after the 7 tokens that an earlier attempt had written.",
        "It took 500 ms there until its prompt was read, and 2.50 s from then on.",
        "Of 100 prompt tokens 60 were shared, 20 of these computed ahead for it; 40 had to be computed; 8 generated.",
        "It took 2 attempts.",
    ]


@pytest.mark.parametrize("decision", [decision for decision in DECISIONS if decision])
def test_a_decision_without_a_reason_is_put_into_words(decision: str) -> None:
    told = _told(_story("v", end=3, worker="w1", decision=decision))
    assert "It went to w1, " in told


def test_what_waits_says_for_what() -> None:
    assert _told(_story("v", ["a", "b"])) == "It has waited 10.0 s for what it reads: a, b."
    ready = _story("v", state="ready", ready_at=T + 4)
    assert _told(ready) == "All it needs is there; it has waited 6.00 s for a worker with room."


def test_what_came_back_is_in_the_queue_again() -> None:
    lost = [LostAttempt(worker="w1", assigned_at=T + 1, returned_at=T + 2, reason="it drains")]
    story = _story("v", state="ready", ready_at=T + 1, lost=lost)
    assert _told(story) == "It was on w1 and came back after 1.00 s: it drains. It is in the queue again."


def test_a_failure_is_told_with_its_code() -> None:
    error = ErrorInfo(code="engine_failure", message="the engine failed: no luck")
    assert _told(_story("v", state="failed", error=error)).endswith(
        "It failed: the engine failed: no luck (engine_failure)."
    )


def test_of_what_nothing_is_known_nothing_is_told() -> None:
    assert explain_output(TaskStory(variable="v"), T) == []


@given(_programs())
@settings(max_examples=30)
def test_every_sentence_is_one(stories: list[TaskStory]) -> None:
    for story in stories:
        for sentence in explain_output(story, T + 10):
            assert sentence[0].isupper()
            assert sentence.endswith(".")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 ms"), (0.0421, "42 ms"), (0.9996, "1.00 s"), (9.99, "9.99 s"), (99.96, "100.0 s"), (150.4, "2 min 30 s")],
)
def test_durations_have_three_digits(seconds: float, shown: str) -> None:
    assert show_seconds(seconds) == shown


def test_what_lasts_ends_now() -> None:
    running = _story("v", state="running", assigned_at=T + 2, started_at=T + 3)
    phases = measure_phases(running, T + 10)
    assert phases.output is not None
    assert phases.output.duration_s == 7.0
    assert session_interval([], T) is None
    span = session_interval([running], T + 10)
    assert span is not None
    assert span.duration_s == 10.0


def test_waiting_for_inputs_makes_a_session_no_longer() -> None:
    span = session_interval([_story("a", end=3), _story("b", ["never"])], T + 1_000)
    assert span is not None
    assert span.duration_s == 3.0
