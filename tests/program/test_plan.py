"""Roles of placeholders, and the prompts that a template is cut into."""

from __future__ import annotations

import pytest
from hypothesis import given

from parrot_mq.errors import TemplateError
from parrot_mq.program import (
    MAX_PROMPT_PARTS,
    OutputPlan,
    Placeholder,
    Template,
    Text,
    parse_template,
    plan_outputs,
)
from tests.program.strategies import planned_templates


def _plan(text: str, inputs: str = "", outputs: str = "") -> tuple[OutputPlan, ...]:
    return plan_outputs(parse_template(text), inputs.split(), outputs.split())


def _plan_error(text: str, inputs: str = "", outputs: str = "") -> str:
    with pytest.raises(TemplateError) as caught:
        _plan(text, inputs, outputs)
    return caught.value.message


def test_the_prompt_of_an_output_is_all_before_it() -> None:
    (plan,) = _plan("About {{topic}}: {{joke}}", "topic", "joke")
    assert plan.output == "joke"
    assert plan.parts == (Text("About "), Placeholder("topic"), Text(": "))
    assert plan.reads == ("topic",)


def test_a_later_output_reads_the_earlier_ones() -> None:
    first, second = _plan("{{topic}}: {{joke}} Why: {{reason}}", "topic", "reason joke")
    assert (first.output, second.output) == ("joke", "reason")
    assert first.reads == ("topic",)
    assert second.reads == ("topic", "joke")
    assert second.parts[: first.num_parts] == first.parts


def test_text_after_the_last_output_is_dropped() -> None:
    (plan,) = _plan("{{a}} {{out}} and {{a}}.", "a", "out")
    assert plan.parts == (Placeholder("a"), Text(" "))


def test_an_input_may_be_used_often_and_is_read_once() -> None:
    (plan,) = _plan("{{a}} {{a}} {{out}}", "a", "out")
    assert plan.reads == ("a",)


def test_two_outputs_may_be_separated_by_an_input() -> None:
    assert len(_plan("x {{one}}{{a}}{{two}}", "a", "one two")) == 2


def test_a_wrong_placeholder_is_shown_with_the_name_that_was_meant() -> None:
    assert _plan_error("Tell a joke\nabout {{ topc }}: {{joke}}", "topic", "joke") == (
        "`{{topc}}` is neither an input nor an output (line 2, column 7); "
        "did you mean `topic`? declared: `topic`, `joke`\n"
        "  2 | about {{ topc }}: {{joke}}\n"
        "    |       ^^^^^^^^^^"
    )


def test_a_placeholder_like_no_other_is_shown_with_what_is_declared() -> None:
    message = _plan_error("{{zebra}}: {{joke}}", "topic", "joke")
    assert "(line 1, column 1); declare it; declared: `topic`, `joke`\n" in message


def test_a_name_with_illegal_characters_cannot_be_a_placeholder() -> None:
    message = _plan_error("{{topic}}: {{joke}}", "topic the-topic", "joke")
    assert message.startswith(
        "the name 'the-topic' cannot be a placeholder; use 1 to 64 of the characters A-Z a-z 0-9 _"
    )


def test_a_declared_input_has_to_be_in_the_template() -> None:
    message = _plan_error("Tell a joke: {{joke}}", "topic", "joke")
    assert message == (
        "the input `topic` is not in the template; "
        "write `{{topic}}` where its text belongs, or remove its declaration\n"
        "  1 | Tell a joke: {{joke}}"
    )


def test_a_declared_output_has_to_be_in_the_template() -> None:
    message = _plan_error("On {{topic}}: {{joke}}", "topic", "joke reason")
    assert message.startswith("the output `reason` is not in the template; write `{{reason}}` where the model is to")


def test_an_input_after_the_last_output_is_read_by_nobody() -> None:
    message = _plan_error("Joke: {{joke}} about {{topic}}", "topic", "joke")
    assert "`topic` is only used after the last output, where nothing reads it (line 1, column 22)" in message
    assert "move it before the last output, or remove it" in message


def test_an_output_appears_once() -> None:
    message = _plan_error("a {{joke}} b {{joke}}", "", "joke")
    assert "the output `joke` appears a second time (line 1, column 14); an output is generated once" in message


def test_outputs_do_not_follow_each_other_directly() -> None:
    message = _plan_error("a {{one}}{{two}}", "", "one two")
    assert (
        "the outputs `one` and `two` follow each other directly (line 1, column 10); put text between them" in message
    )


def test_a_prompt_is_not_empty() -> None:
    assert "nothing stands before the output `joke` (line 1, column 1)" in _plan_error("{{joke}} b", "", "joke")


def test_a_template_has_an_output() -> None:
    assert _plan_error("Tell {{topic}}", "topic").startswith("the template has no output; mark what the model writes")


def test_a_name_has_one_role() -> None:
    message = _plan_error("Tell {{topic}}", "topic", "topic")
    assert message.startswith("`topic` is declared as an input and as an output; give the two different names")


def test_a_template_that_would_multiply_is_refused() -> None:
    """The prompts of n outputs have n² parts: what is small on the wire would be large in the coordinator."""
    names = [f"o{index}" for index in range(400)]
    message = _plan_error("".join(f"x {{{{{name}}}}}" for name in names), "", " ".join(names))
    assert f"the prompts of its 400 outputs have 160000 parts together; at most {MAX_PROMPT_PARTS}" in message


def test_a_long_template_is_shown_in_part() -> None:
    message = _plan_error("\n".join("abcdefghij" * 50 for _ in range(50)), "", "joke")
    assert len(message) < 2000
    assert message.endswith("…")


@given(planned_templates)
def test_the_prompts_of_a_template_are_its_beginnings(case: tuple[Template, set[str], list[str]]) -> None:
    """Each prompt and its output are what the template has up to there, and the last reaches to the last output."""
    template, inputs, outputs = case
    plans = plan_outputs(template, inputs, set(outputs))
    assert [plan.output for plan in plans] == outputs
    for plan in plans:
        assert (*plan.parts, Placeholder(plan.output)) == template.parts[: plan.num_parts + 1]
        assert set(plan.reads) == {part.name for part in plan.parts if isinstance(part, Placeholder)}
    rest = template.parts[plans[-1].num_parts + 1 :]
    assert not any(isinstance(part, Placeholder) and part.name in outputs for part in rest)


@given(planned_templates)
def test_the_plan_of_a_template_does_not_depend_on_how_it_is_written(
    case: tuple[Template, set[str], list[str]],
) -> None:
    template, inputs, outputs = case
    plans = plan_outputs(template, inputs, outputs)
    again = plan_outputs(parse_template(template.text), inputs, outputs[::-1])
    assert [(plan.output, plan.parts) for plan in plans] == [(plan.output, plan.parts) for plan in again]
