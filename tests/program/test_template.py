"""The grammar of templates."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from parrot_mq.errors import TemplateError
from parrot_mq.program import Part, Placeholder, Template, Text, escape_braces, parse_template
from tests.program.strategies import braced_texts, names, template_parts


def _parse_error(text: str) -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        parse_template(text)
    return caught.value


def test_a_template_is_cut_at_its_placeholders() -> None:
    assert parse_template("Tell {{ topic }} to {{who}}!").parts == (
        Text("Tell "),
        Placeholder("topic"),
        Text(" to "),
        Placeholder("who"),
        Text("!"),
    )


def test_parts_know_their_place_in_the_source() -> None:
    template = parse_template("a {{x}} b {{ y }}{{{{ c")
    assert [part.position for part in template.parts] == [0, 2, 7, 10, 17]
    assert template.source == "a {{x}} b {{ y }}{{{{ c"


def test_placeholders_come_in_order_and_as_often_as_they_appear() -> None:
    assert [each.name for each in parse_template("{{b}}{{a}} {{b}}").placeholders] == ["b", "a", "b"]


def test_an_empty_template_has_no_parts() -> None:
    assert parse_template("").parts == ()


@pytest.mark.parametrize(
    ("source", "meaning"),
    [
        ("{{{{", "{{"),
        ("}}}}", "}}"),
        ("{{{{name}}}}", "{{name}}"),
        ("{", "{"),
        ("}", "}"),
        ("{a}", "{a}"),
        ("{ {{{{ } }}}}", "{ {{ } }}"),
        ("{{{{{", "{{{"),
        ("}}}}}", "}}}"),
        ("{{{{{{{{", "{{{{"),
    ],
)
def test_doubled_braces_are_literal_and_single_ones_ordinary(source: str, meaning: str) -> None:
    assert parse_template(source).parts == (Text(meaning),)


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ('{"a": {{x}}}', (Text('{"a": '), Placeholder("x"), Text("}"))),
        ("{{{x}}}", (Text("{"), Placeholder("x"), Text("}"))),
        ("{{{{{{x}}}}}}", (Text("{{"), Placeholder("x"), Text("}}"))),
        ("{{{{{{{x}}}}}}}", (Text("{{{"), Placeholder("x"), Text("}}}"))),
        ("{{x}}{{y}}", (Placeholder("x"), Placeholder("y"))),
    ],
)
def test_placeholders_can_stand_among_braces(source: str, parts: tuple[Part, ...]) -> None:
    assert parse_template(source).parts == parts


@given(template_parts)
@example((Text("{"), Placeholder("a"), Text("}")))
@example((Text("}}{{{"), Placeholder("a"), Text("}}}}}{")))
def test_rendering_and_parsing_again_gives_the_same_template(parts: tuple[Part, ...]) -> None:
    assert parse_template(Template(parts).text).parts == parts


@given(braced_texts)
def test_any_text_that_parses_renders_to_an_equal_template(text: str) -> None:
    try:
        template = parse_template(text)
    except TemplateError:
        return
    again = parse_template(template.text)
    assert again == template
    assert again.text == template.text


@given(braced_texts)
def test_an_escaped_text_means_itself(text: str) -> None:
    assert parse_template(escape_braces(text)).parts == ((Text(text),) if text else ())


@given(braced_texts, names, braced_texts)
def test_an_escaped_text_can_stand_next_to_a_placeholder(before: str, name: str, after: str) -> None:
    template = parse_template(f"{escape_braces(before)}{{{{{name}}}}}{escape_braces(after)}")
    assert template.placeholders == (Placeholder(name),)
    assert "".join(part.text for part in template.parts if isinstance(part, Text)) == before + after


@given(braced_texts)
def test_a_bad_template_is_a_template_error_and_nothing_else(text: str) -> None:
    line = 1
    try:
        parse_template(text)
    except TemplateError as error:
        line = int(str(error.facts["line"]))
    assert 1 <= line <= text.count("\n") + 1


def test_an_illegal_name_shows_line_column_caret_and_rule() -> None:
    error = _parse_error("Tell me\nabout {{topic-1}} now")
    assert error.message == (
        "the placeholder name 'topic-1' is not allowed (line 2, column 7); "
        "use 1 to 64 of the characters A-Z a-z 0-9 _, not beginning with a digit; "
        "for literal braces write `{{{{` and `}}}}`\n"
        "  2 | about {{topic-1}} now\n"
        "    |       ^^^^^^^^^^^"
    )
    assert error.facts == {"line": 2, "column": 7}


@pytest.mark.parametrize("name", ["1st", "a b", "naïve", "a.b", "a" * 65, "x!", "x{", "a\u00a0"])
def test_a_placeholder_name_is_an_ascii_identifier(name: str) -> None:
    assert "is not allowed (line 1, column 1)" in _parse_error(f"{{{{{name} }}}} rest").message


def test_a_name_of_64_characters_is_allowed() -> None:
    assert parse_template(f"{{{{{'a' * 64}}}}}").placeholders == (Placeholder("a" * 64),)


@pytest.mark.parametrize("text", ["{{}}", "{{  }}", "{{\t}}"])
def test_an_empty_name_is_named_so(text: str) -> None:
    assert "a placeholder has no name (line 1, column 1)" in _parse_error(text).message


@pytest.mark.parametrize("text", ["x {{", "x {{name", "x {{name}", "x {{a\n}}", "x {{a {{b}}", "x {{{{{{"])
def test_an_opening_that_is_never_closed_is_an_error_with_the_remedy(text: str) -> None:
    message = _parse_error(text).message
    assert message.startswith("`{{` opens no placeholder (line 1, column ")
    assert "write `{{name}}` on one line for a placeholder, or `{{{{` for a literal `{{`" in message


@pytest.mark.parametrize("text", ["x }}", "{{a}}}}", "}}}", '{"a": {"b": 1}}'])
def test_a_closing_without_opening_is_an_error_with_the_remedy(text: str) -> None:
    message = _parse_error(text).message
    assert message.startswith("`}}` closes no placeholder (line 1, column ")
    assert "`}}}}` for a literal `}}`" in message


def test_a_lone_surrogate_is_not_text() -> None:
    message = _parse_error("fine\nnot \ud800 fine").message
    assert "lone surrogate U+D800, which is not text (line 2, column 5)" in message
    message.encode()


def test_only_a_window_of_a_long_line_is_shown() -> None:
    line = _parse_error("x" * 5000 + "{{a-b}}" + "y" * 5000).message.split("\n")[1]
    assert len(line) < 120
    assert "…xxx" in line
    assert "{{a-b}}yyy" in line
    assert line.endswith("…")


def test_carets_stand_under_the_place_also_after_wide_characters_and_tabs() -> None:
    shown = _parse_error("\t世界 {{a-b}}").message.split("\n")
    assert shown[1] == "  1 |  世界 {{a-b}}"
    assert shown[2] == "    | " + " " * 6 + "^" * 7


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_place_is_always_in_the_window(before: int, after: int) -> None:
    shown = _parse_error("x" * before + "{{!}}" + "y" * after).message.split("\n")
    start = shown[2].index("^")
    assert shown[1][start : start + 5] == "{{!}}"
