"""What is made of a text, and what is refused."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parrot_mq.errors import ConfigurationError, TransformError
from parrot_mq.program.diagnostics import MAX_EXCERPT, excerpt
from parrot_mq.program.patterns import MAX_REPEATED, REGEX_TIMEOUT_S, TimeBudget
from parrot_mq.program.pointer import NothingThere, find_at, json_text
from parrot_mq.program.transforms import (
    MAX_LIST_ITEMS,
    MAX_TEXT,
    Join,
    JsonPointer,
    Regex,
    Split,
    Strip,
    Transform,
    apply_transforms,
    decode_list,
    encode_list,
    is_slow,
    makes_list,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
SEPARATORS = st.sampled_from(["\n", ",", "; ", "--", "ä", "😀"])
TRANSFORMS = st.sampled_from(
    [
        Strip(),
        Strip("ab"),
        Regex(r"\w*"),
        Regex(r"(?P<first>.)?", group="first"),
        Regex(r".", every=True),
        Regex(r"(a)|(b)", group=2, every=True),
        Regex("x"),
        JsonPointer(),
        JsonPointer("/0"),
        JsonPointer(items=True),
        Split(),
        Split(",", keep_empty=True),
        Split("a", max_items=3),
        Join(),
        Join(", "),
    ]
)


def _text(*transforms: Transform, of: str) -> str:
    made = apply_transforms(transforms, of)
    assert isinstance(made, str)
    return made


def _list(*transforms: Transform, of: str) -> list[str]:
    made = apply_transforms(transforms, of)
    assert isinstance(made, list)
    return made


def _refused(*transforms: Transform, of: str) -> str:
    with pytest.raises(TransformError) as raised:
        apply_transforms(transforms, of)
    return raised.value.message


# -- laws ------------------------------------------------------------------------------------------------------------


@given(TEXT, SEPARATORS)
def test_what_is_split_and_joined_is_as_before(text: str, separator: str) -> None:
    assert _text(Split(separator, keep_empty=True), Join(separator), of=text) == text


@given(TEXT, SEPARATORS)
def test_splitting_is_that_of_python_and_leaves_out_what_is_white_space(text: str, separator: str) -> None:
    assert _list(Split(separator, keep_empty=True), of=text) == text.split(separator)
    assert _list(Split(separator), of=text) == [piece for piece in text.split(separator) if piece.strip()]


@given(st.lists(TEXT, max_size=20))
def test_a_list_comes_back_from_its_text(items: list[str]) -> None:
    text = encode_list(items)
    assert decode_list(text, variable="v") == items == json.loads(text)
    assert _list(JsonPointer(items=True), of=text) == items
    assert _text(Join("|"), of=text) == "|".join(items)


@settings(deadline=None)
@given(st.lists(TEXT, max_size=5), TRANSFORMS.filter(lambda each: not isinstance(each, Join)))
def test_what_takes_a_text_is_used_on_each_item_of_a_list(items: list[str], transform: Transform) -> None:
    separately: list[str] = []
    try:
        for item in items:
            made = apply_transforms([transform], item)
            separately += [made] if isinstance(made, str) else made
    except TransformError:
        assert f"transforms[1] ({transform.__struct_config__.tag}), item" in _refused(
            JsonPointer(items=True), transform, of=encode_list(items)
        )
    else:
        assert _list(JsonPointer(items=True), transform, of=encode_list(items)) == separately


@settings(deadline=None)
@given(st.lists(TRANSFORMS, max_size=5), TEXT | st.lists(TEXT, max_size=4).map(encode_list))
def test_whether_a_list_is_made_is_known_before_the_text(transforms: list[Transform], text: str) -> None:
    try:
        made = apply_transforms(transforms, text)
    except TransformError as error:
        place = error.message.split(":")[0]
        index = error.facts["index"]
        assert isinstance(index, int)
        assert place.startswith(f"transforms[{index}] ({transforms[index].__struct_config__.tag})")
    else:
        assert isinstance(made, list) == makes_list(transforms)


@given(st.lists(TRANSFORMS, max_size=5))
def test_they_travel_as_they_are(transforms: list[Transform]) -> None:
    assert msgspec.json.decode(msgspec.json.encode(transforms), type=list[Transform]) == transforms


# -- one by one ------------------------------------------------------------------------------------------------------


def test_a_numbered_list_becomes_its_items() -> None:
    items: list[Transform] = [Strip(), Split(), Strip(), Regex(r"^\d+[.)]\s*(.*)$", group=1)]
    assert _list(*items, of=" 1. one\n\n2) two \n3. 3\n") == ["one", "two", "3"]


def test_characters_are_stripped_from_both_ends() -> None:
    assert _text(Strip(), of="\t\n a b \u00a0") == "a b"
    assert _text(Strip('"'), of='"a" b"') == 'a" b'


def test_a_group_is_taken_by_number_or_name_from_the_first_match_that_has_it() -> None:
    assert _text(Regex(r"answer: (\d+)", group=1), of="The answer: 42, or answer: 43.") == "42"
    assert _text(Regex(r"none|answer: (?P<number>\d+)", group="number"), of="none; answer: 42") == "42"
    assert _text(Regex(r"a.c"), of="xabcx") == "abc"


def test_all_matches_are_a_list_and_there_may_be_none() -> None:
    assert _list(Regex(r"\[(\d+)\]", group=1, every=True), of="see [1] and [23]") == ["1", "23"]
    assert _list(Regex(r"\[(\d+)\]", group=1, every=True), of="see nothing") == []
    assert _text(Regex("x", every=True), Join(), of="") == ""


def test_patterns_know_all_of_unicode() -> None:
    assert _text(Regex(r"\p{Lu}\w+"), of="der Ätna") == "Ätna"
    assert _text(Regex(r"(?i)straße"), of="STRASSE Straße") == "Straße"


@pytest.mark.parametrize(
    ("pointer", "text"),
    [
        ("/name", "Ann"),
        ("/tags", '["a",1]'),
        ("/tags/1", "1"),
        ("/deep/x~1y", "true"),
        ("/half", "0.5"),
        ("/large", "1" + "0" * 30),
        ("/deep", '{"b":2,"x/y":true}'),
    ],
)
def test_a_pointer_takes_texts_as_they_are_and_all_else_as_json(pointer: str, text: str) -> None:
    rest = '"tags": ["a", 1], "deep": {"x/y": true, "b": 2}, "half": 0.50'
    document = f'{{"name": "Ann", {rest}, "large": 1{"0" * 30}}}'
    assert _text(JsonPointer(pointer), of=document) == text


def test_the_items_of_an_array_are_a_list() -> None:
    assert _list(JsonPointer("/tags", items=True), of='{"tags": ["a", 1, {"b": []}]}') == ["a", "1", '{"b":[]}']


# -- pointers --------------------------------------------------------------------------------------------------------


def _places(value: Any, pointer: str = "") -> dict[str, Any]:
    """Every pointer into a value, and what stands there; a naive model."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = {pointer: value}
    for key, each in inner:
        found |= _places(each, f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}")
    return found


@given(JSON, st.data())
def test_a_pointer_finds_what_the_model_finds(document: Any, data: st.DataObject) -> None:
    places = _places(document)
    pointer = data.draw(st.sampled_from(list(places)) | st.lists(TEXT, max_size=3).map(_pointer_of))
    if pointer in places:
        assert find_at(document, pointer) is places[pointer]
    else:
        with pytest.raises(NothingThere) as raised:
            find_at(document, pointer)
        assert raised.value.place in places
        assert pointer.startswith(raised.value.place)


def _pointer_of(steps: list[str]) -> str:
    return "".join(f"/{step.replace('~', '~0').replace('/', '~1')}" for step in steps)


@given(JSON, st.data())
def test_a_transform_finds_what_the_pointer_finds(document: Any, data: st.DataObject) -> None:
    pointer, value = data.draw(st.sampled_from(list(_places(document).items())))
    text = json.dumps(document)
    if value is None:
        assert "is null" in _refused(JsonPointer(pointer), of=text)
    else:
        assert _text(JsonPointer(pointer), of=text) == json_text(value)


# -- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transform", "text", "problem"),
    [
        (Regex("^x$"), "y", "the pattern '^x$' matches nothing"),
        (Regex("(y)|(?P<b>x)", group="b"), "y", "group 'b' of the pattern '(y)|(?P<b>x)' matches nothing"),
        (JsonPointer("/a"), "{'a': 1}", "no JSON that can be read (Expecting property name"),
        (JsonPointer("/a"), "", "no JSON that can be read (Expecting value"),
        (JsonPointer("/a"), '```json\n{"a": 1}```', "no JSON that can be read (Expecting value"),
        (JsonPointer(), "[NaN]", "(NaN is no number of JSON)"),
        (JsonPointer(), "[-Infinity]", "(-Infinity is no number of JSON)"),
        (JsonPointer(), "[1e999]", "(the number '1e999' is too large)"),
        (JsonPointer("/a"), '{"a": 1, "a": 2}', "(an object has 'a' twice)"),
        (JsonPointer("/0"), "[" * 100_000, "(it is nested too deeply)"),
        (JsonPointer("/0"), '["\\ud800"]', "/0 has half a character of UTF-16"),
        (JsonPointer("/0"), "[" + "9" * 5000 + "]", "no JSON that can be read (Exceeds the limit"),
        (JsonPointer("/a/b"), '{"a": {"c": 1}}', "the pointer '/a/b' leads nowhere: /a is an object with c, no 'b'"),
        (JsonPointer("/3"), "[1, 2]", "the pointer '/3' leads nowhere: the document is an array of 2, no '3'"),
        (JsonPointer("/a"), '{"a": null}', "/a is null"),
        (JsonPointer("/a", items=True), '{"a": "x"}', "/a is a text, no array"),
        (JsonPointer(items=True), '["x", null]', "item 1 of the document is null"),
        (Split(max_items=2), "a\nb\n\nc", "the list has more than 2 items"),
        (Join(), "no list", "no JSON array of texts (JSON is malformed"),
        (Join(), '["a", 5]', "no JSON array of texts (Expected `str`, got `int` - at `$[1]`)"),
        (Strip(), "a" * (MAX_TEXT + 1), "the text has 4,194,305 characters, at most 4,194,304 are allowed"),
        (Regex(".", every=True), "a" * (MAX_LIST_ITEMS + 1), "the list has more than 10,000 items"),
        (
            Regex("(?=((?s:.*)))", group=1, every=True),
            "a" * 10_000,
            "items have more than 4,194,304 characters together",
        ),
        (JsonPointer(items=True), json.dumps(["a"] * (MAX_LIST_ITEMS + 1)), "the list has more than 10,000 items"),
    ],
)
def test_an_error_names_the_transform_what_does_not_fit_and_what_was_given(
    transform: Transform, text: str, problem: str
) -> None:
    message = _refused(transform, of=text)
    assert message.startswith(f"transforms[0] ({transform.__struct_config__.tag}): ")
    assert problem in message
    assert message.endswith(f"; it was given {excerpt(text)}")


def test_an_error_names_the_item() -> None:
    assert _refused(Split(), Regex("b"), of="ab\nc").startswith(
        "transforms[1] (regex), item 1: the pattern 'b' matches"
    )
    many = "a,b,c\n" * 5000
    assert _refused(Split(max_items=5000), Split(","), of=many).startswith("transforms[1] (split): the list has more")


@given(st.text(max_size=400))
def test_an_excerpt_is_short_and_printable(text: str) -> None:
    shown = excerpt(text)
    assert len(shown) <= MAX_EXCERPT
    assert shown.isprintable()
    assert shown == repr(text) or shown.endswith("…")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a, b", "JSON is malformed"),
        ('{"a": 1}', "Expected `array`, got `object`"),
        ('["a", ["b"]]', "Expected `str`, got `array` - at `$[1]`"),
        (json.dumps(["a"] * (MAX_LIST_ITEMS + 1)), "it has 10,001 items, at most 10,000 are allowed"),
    ],
)
def test_what_is_no_list_is_told_with_its_variable(text: str, problem: str) -> None:
    with pytest.raises(TransformError) as raised:
        decode_list(text, variable="points")
    assert raised.value.message.startswith(f"variable 'points' is no list: {problem}")
    assert excerpt(text) in raised.value.message
    assert raised.value.facts == {"variable": "points"}


# -- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["(a+)+$", "(x+x+)+y", "(a*)*b"])
def test_patterns_known_to_be_slow_elsewhere_find_nothing_in_time(pattern: str) -> None:
    begin = time.process_time()
    _refused(Regex(pattern), of="a" * 5000 + "!")
    assert time.process_time() - begin < 5 * REGEX_TIMEOUT_S


@pytest.mark.parametrize("pattern", ["(a|aa)+$", "(?:(?:a+)+)+c"])
def test_a_search_ends_in_time(pattern: str) -> None:
    begin = time.process_time()
    message = _refused(Regex(pattern), of="a" * 5000 + "!")
    assert time.process_time() - begin < 5 * REGEX_TIMEOUT_S
    assert "took more than 1 s; nest no repetitions such as `(a+)+`" in message


def test_a_thread_that_waits_for_its_turn_loses_no_time() -> None:
    budget = TimeBudget(0.05)
    assert budget.left_s() == pytest.approx(0.05)
    time.sleep(0.1)
    assert budget.left_s() > 0


def test_all_searches_of_an_output_share_their_time() -> None:
    item = "a" * 22 + "!"  # takes a few milliseconds by itself
    begin = time.process_time()
    message = _refused(Split(max_items=MAX_LIST_ITEMS), Regex("(?:(?:a|aa)+c)?"), of="\n".join([item] * MAX_LIST_ITEMS))
    assert time.process_time() - begin < 5 * REGEX_TIMEOUT_S
    assert "took more than 1 s" in message


@pytest.mark.parametrize(
    "pattern",
    [
        "(?:(?:(?:a{1000}){1000}){1000}){1000}",
        "(?:a{500,}){500,}",
        "(?:(?:a+){1000,2000}){1000,}",
        "(?:[(]{1000}){1000}",
        "((?:a{1000})[(]){1000}",
        r"(?:\({1000}){1000}",
        "(?:(?:ab){200}){200}",
    ],
)
def test_a_pattern_that_would_take_long_to_compile_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match=f"at most {MAX_REPEATED:,} are allowed"):
        Regex(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}",
        r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        r"(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)",
        r"(?:\w+,){1,1000}",
        r"a{1000}",
        "x" * 4096,
    ],
)
def test_a_pattern_as_people_write_them_is_allowed(pattern: str) -> None:
    Regex(pattern)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Regex("("), "the pattern '(' is no regular expression: missing ) at character 1"),
        (lambda: Regex("(?x) a b"), "has the flag `x`; write it without spaces and comments"),
        (lambda: Regex("(?:x|(?R))"), "has a recursion, which may take any memory"),
        (lambda: Regex("(?P<a>x(?&a)?)"), "has a recursion, which may take any memory"),
        (lambda: Regex("(x(?-1)?)"), "has a recursion, which may take any memory"),
        (lambda: Regex("(" * 3000), "nested too deeply"),
        (lambda: Regex("(a)", group=2), "the pattern '(a)' has no group 2; groups: 0 to 1"),
        (lambda: Regex("(a)", group=-1), "has no group -1"),
        (lambda: Regex("(?P<a>a)", group="b"), "has no group named 'b'; named groups: a"),
        (lambda: JsonPointer("a/b"), "a JSON pointer begins with `/`: write '/a/b'"),
        (lambda: JsonPointer("/~2"), "in the JSON pointer '/~2' `~` is written `~0`"),
    ],
)
def test_what_cannot_be_used_is_refused_where_it_is_declared(make: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        make()
    assert problem in raised.value.message


@pytest.mark.parametrize(
    ("wire", "problem"),
    [
        (
            '[{"op":"strip"},{"op":"regex","pattern":"("}]',
            "is no regular expression: missing ) at character 1 - at `$[1]`",
        ),
        ('[{"op":"json","pointer":"a"}]', "a JSON pointer begins with `/`: write '/a' instead of 'a' - at `$[0]`"),
        ('[{"op":"split","max_items":10001}]', "Expected `int` <= 10000 - at `$[0].max_items`"),
        ('[{"op":"split","separator":""}]', "Expected `str` of length >= 1 - at `$[0].separator`"),
        ('[{"op":"strip","chars":"x"}]', "Object contains unknown field `chars` - at `$[0]`"),
    ],
)
def test_what_is_decoded_is_checked_with_its_place(wire: str, problem: str) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.json.decode(wire, type=list[Transform])
    assert problem in str(raised.value)


@settings(deadline=None)
@given(st.text("ab()[]{}?*+|\\.,:<=!P>R1x29&~^$-# ", max_size=12) | st.text(max_size=8))
def test_any_pattern_is_taken_or_refused_in_our_own_words(pattern: str) -> None:
    with suppress(ConfigurationError, TransformError):
        apply_transforms([Regex(pattern, every=True)], "abab 12 xyz")


def test_what_may_take_long_runs_elsewhere() -> None:
    assert is_slow([Strip(), Regex("a")], "")
    assert is_slow([Strip()], "a" * 100_000)
    assert not is_slow([Strip(), Split(), Join(), JsonPointer()], "a" * 1000)
