"""The synthetic tasks: each function draws one sample, right by construction.

A sample is a list of turns. A turn's prompt ends where the model has to answer, and every answer is followed by a
line break, on which an application stops. ``canonical`` asks for the exact prompt forms of the model card, otherwise
the wording varies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from parrot_workers.tiny_model.records import RecordShape, draw_fields, draw_questions, draw_record
from parrot_workers.tiny_model.values import Values


class Turn(NamedTuple):
    """One question and its right answer, without the line break that ends it."""

    prompt: str
    answer: str


class Sample(NamedTuple):
    """One or several turns about the same thing."""

    task: str
    turns: tuple[Turn, ...]

    @property
    def text(self) -> str:
        """The whole sample, each answer ended by a line break."""
        return "".join(f"{turn.prompt}{turn.answer}\n" for turn in self.turns)


Task = Callable[[Values, RecordShape, bool], Sample]
"""Draws a sample: source of values, shape of records, whether to use the canonical wording."""

ANSWER_LABELS: Final = ("Answer: ", "Answer: ", "Answer: ", "Answer: ", "A: ", "Result: ", "Output: ", "Answer:\n")


def get(values: Values, shape: RecordShape, canonical: bool) -> Sample:
    """Copy the value of a named field out of a record."""
    record = draw_record(values, shape, canonical)
    turns = [Turn(prompt, answer) for prompt, answer in draw_questions(values, record, shape, canonical)]
    turns[0] = Turn(record.text + turns[0].prompt, turns[0].answer)
    return Sample("get", tuple(turns))


def lookup(values: Values, shape: RecordShape, canonical: bool) -> Sample:
    """Repeat fields of a small record, in any order: an exercise for finding a value by its name.

    It has many answers for its length. Without it, finding is learned late.
    """
    fields = draw_fields(values, shape)
    begin, joint, end = values.rng.choice(
        (("", ": ", ""), ("", ": ", ""), ("- ", ": ", ""), ("", " = ", ""), ("", '="', '"'))
    )
    text = "".join(f"{begin}{name}{joint}{value}{end}\n" for name, value in fields.items())
    names = values.rng.choices(list(fields), k=2 * len(fields))
    asked = values.rng.choice((f"{begin}{{}}{joint}", "{}: ", "{}? ", "What is the {}? "))
    turns = [Turn(asked.format(name), fields[name] + (end if asked.endswith('"') else "")) for name in names]
    turns[0] = Turn(f"{text}\n{turns[0].prompt}", turns[0].answer)
    return Sample("lookup", tuple(turns))


def larger(values: Values, shape: RecordShape, canonical: bool) -> Sample:
    """Choose the larger of two numbers."""
    rng = values.rng
    first = values.number()
    draw = rng.random()
    if draw < 0.06:
        second = first
    elif draw < 0.24:
        second = values.number_near(first)
    elif draw < 0.70:
        second = values.number_as_long_as(first)
    else:
        second = values.number()
    if rng.random() < 0.5:
        first, second = second, first
    answer = str(max(int(first), int(second)))
    return _one_turn("larger", _larger_prompt(values, first, second, canonical), answer)


def _larger_prompt(values: Values, first: str, second: str, canonical: bool) -> str:
    rng = values.rng
    if canonical:
        return f"Which number is larger?\nFirst: {first}\nSecond: {second}\nAnswer: "
    label = rng.choice(ANSWER_LABELS)
    asked = rng.choice(("Which number is larger?\n", "Give the larger number.\n", "Choose the larger number.\n", ""))
    forms = (
        f"Which is larger, {first} or {second}?\n{label}",
        f"Which number is larger, {first} or {second}?\n{label}",
        f"Which is greater, {first} or {second}?\n{label}",
        f"{asked}First: {first}\nSecond: {second}\nLarger: ",
        f"{asked or 'Which number is larger?'}\nFirst: {first}\nSecond: {second}\n{label}",
        f"{asked or 'Which number is larger?'}\nA: {first}\nB: {second}\n{label}",
        f"Larger of {first} and {second}: ",
        f"{first} or {second}: ",
    )
    return rng.choice(forms)


def upper(values: Values, shape: RecordShape, canonical: bool) -> Sample:
    """Write a text of up to 30 bytes in upper case."""
    text = _short(values, lambda: values.phrase() if values.rng.random() < 0.6 else values.value(), 30)
    label = values.rng.choice(ANSWER_LABELS)
    forms = (
        f"Write the text in upper case.\nText: {text}\n{label}",
        f"Write this text in upper case.\nText: {text}\n{label}",
        f"Write the text in capital letters.\nText: {text}\n{label}",
        f"Convert the text to upper case.\n\nText: {text}\n{label}",
        f"Write in upper case: {text}\n{label}",
        f"Text: {text}\nUpper case: ",
        f"Upper case: {text}\n{label}",
    )
    prompt = f"Write the text in upper case.\nText: {text}\nAnswer: " if canonical else values.rng.choice(forms)
    return _one_turn("upper", prompt, text.upper())


def join(values: Values, shape: RecordShape, canonical: bool) -> Sample:
    """Join two texts with a space or a comma."""
    first, second = _join_part(values), _join_part(values)
    name, joint = values.rng.choice((("space", " "), ("space", " "), ("comma", ", ")))
    label = values.rng.choice(ANSWER_LABELS)
    forms = (
        f"Join the two texts with a {name}.\n\nFirst: {first}\nSecond: {second}\n{label}",
        f"Join the texts with a {name}.\nFirst: {first}\nSecond: {second}\n{label}",
        f"Join these two texts with a {name}.\nFirst text: {first}\nSecond text: {second}\n{label}",
        f"Join the two texts with a {name}.\nA: {first}\nB: {second}\nJoined: ",
        f"Put the two texts together with a {name} between them.\nFirst: {first}\nSecond: {second}\n{label}",
    )
    canonical_prompt = f"Join the two texts with a {name}.\nFirst: {first}\nSecond: {second}\nAnswer: "
    return _one_turn("join", canonical_prompt if canonical else values.rng.choice(forms), f"{first}{joint}{second}")


def _join_part(values: Values) -> str:
    text = _short(values, values.value, 20)
    return text.upper() if values.rng.random() < 0.25 else text


def equal(values: Values, shape: RecordShape, canonical: bool) -> Sample:
    """Say whether two values are the same; half are, and most of the others differ in one place only."""
    rng = values.rng
    kind = rng.choice(("number", None))
    first = _short(values, lambda: values.value(kind), 20)
    draw = rng.random()
    if draw < 0.5:
        second = first
    elif draw < 0.82:
        second = values.number_near(first) if kind == "number" else values.changed(first)
    else:
        second = _short(values, lambda: values.value(kind), 20)
    answer = "yes" if first == second else "no"
    return _one_turn("equal", _equal_prompt(values, first, second, canonical), answer)


def _equal_prompt(values: Values, first: str, second: str, canonical: bool) -> str:
    if canonical:
        return f"Are the two values the same? Answer yes or no.\nFirst: {first}\nSecond: {second}\nAnswer: "
    label = values.rng.choice(ANSWER_LABELS)
    asked = values.rng.choice(
        (
            "Are the two values the same?",
            "Are the values equal? Answer yes or no.",
            "Are these two texts the same? Answer yes or no.\n",
            "Is the first value the same as the second? Answer yes or no.",
        )
    )
    forms = (
        f"{asked}\nFirst: {first}\nSecond: {second}\n{label}",
        f"{asked}\nA: {first}\nB: {second}\n{label}",
        f"{asked}\nFirst value: {first}\nSecond value: {second}\nSame: ",
        f"Is {first} the same as {second}?\n{label}",
        f"{first} = {second}? ",
        f"Same, {first} and {second}? ",
    )
    return values.rng.choice(forms)


def copy(values: Values, shape: RecordShape, canonical: bool) -> Sample:
    """Repeat a text: an exercise for copying, which the other tasks build on."""
    text = _short(values, values.phrase, 40)
    form = "Repeat the text.\nText: {}\nAnswer: " if canonical or values.rng.random() < 0.5 else "{}\n"
    return _one_turn("copy", form.format(text), text)


def _short(values: Values, draw: Callable[[], str], max_bytes: int) -> str:
    """Draw until the text fits into ``max_bytes``."""
    while True:
        text = draw()
        if len(text.encode()) <= max_bytes:
            return text


def _one_turn(task: str, prompt: str, answer: str) -> Sample:
    return Sample(task, (Turn(prompt, answer),))


TASKS: Final[dict[str, Task]] = {
    "get": get,
    "larger": larger,
    "upper": upper,
    "join": join,
    "equal": equal,
    "copy": copy,
    "lookup": lookup,
}
"""All tasks by name."""
