"""Records of named fields in several layouts, and the questions about them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, NamedTuple

from parrot_workers.tiny_model.values import Values

INSTRUCTION: Final = "Read the record and answer with the value only.\n\n"
INSTRUCTIONS: Final = (
    *("", "", INSTRUCTION, "Read the record and answer the question.\n\n", "Read the record and answer.\n"),
    "Answer the question about the record below.\n\n",
    "Answer with the value only.\n\n",
    "You are given a document. Answer the question with the value only.\n\n",
    "Read the document and give the value of the field.\n\n",
    "Find the value in the text. Answer with the value only, nothing else.\n\n",
)
HEADERS: Final = ("Record:\n", "Record:\n", "Document:\n", "Passage:\n", "Data:\n", "Text:\n", "Entry:\n", "")
LAYOUTS: Final = ("lines", "lines", "lines", "lines", "list", "assign", "inline", "inline", "inline", "json", "prose")
QUESTIONS: Final = (
    *("Question: What is the {}?\nAnswer: ", "Question: {}?\nAnswer: ", "Question: {}\nAnswer: "),
    *("Question: What is the value of {}?\nAnswer: ", "Q: What is the {}?\nA: ", "What is the {}?\nAnswer: "),
    *("What is the {}?\n", "Give the {}.\nAnswer: ", "Field: {}\nValue: ", "Field: {}\nAnswer: ", "{}: ", "{}: "),
    *("Question: Which {} is given?\nAnswer: ", "What is the value of {}?\nAnswer:\n", "get {}\n> "),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordShape:
    """How large records are and how many questions follow.

    Attributes:
        min_bytes: Smallest aim for the fields' text, in bytes.
        max_bytes: Largest aim for the fields' text, in bytes.
        min_fields: Smallest number of fields, even where they take more bytes.
        max_fields: Limit on the number of fields.
        max_questions: Limit on the number of questions; each number from one on is as likely.
        fixed_questions: Ask exactly ``max_questions`` questions.
    """

    min_bytes: int = 30
    max_bytes: int = 440
    min_fields: int = 3
    max_fields: int = 14
    max_questions: int = 5
    fixed_questions: bool = False


class Record(NamedTuple):
    """A record's text as it stands in the prompt, and its fields under the names used by questions."""

    text: str
    fields: dict[str, str]


def draw_record(values: Values, shape: RecordShape, canonical: bool) -> Record:
    """Draw a record, with instruction and header."""
    fields = draw_fields(values, shape)
    layout = "lines" if canonical else values.rng.choice(LAYOUTS)
    if layout != "lines" and values.rng.random() < 0.5:
        fields = {name.replace(" ", "_"): value for name, value in fields.items()}
    shown = {name: name for name in fields}
    if not canonical and values.rng.random() < 0.12:
        shown = {name: name[:1].upper() + name[1:] for name in fields}
    body = _layout_body(values, layout, [(shown[name], value) for name, value in fields.items()])
    if canonical:
        return Record(f"{INSTRUCTION}Record:\n{body}\n\n", fields)
    gap = values.rng.choice(("\n\n", "\n\n", "\n"))
    return Record(values.rng.choice(INSTRUCTIONS) + values.rng.choice(HEADERS) + body + gap, fields)


def draw_questions(values: Values, record: Record, shape: RecordShape, canonical: bool) -> list[tuple[str, str]]:
    """Draw questions about different fields of ``record``, as (prompt, answer)."""
    rng = values.rng
    count = shape.max_questions if shape.fixed_questions else rng.randint(1, shape.max_questions)
    asked = rng.sample(sorted(record.fields), min(count, len(record.fields)))
    form = QUESTIONS[0] if canonical else rng.choice(QUESTIONS)
    gap = rng.choice(("", "\n"))
    prompts = [form.format(name) for name in asked]
    turns = [(prompt, record.fields[name]) for prompt, name in zip(prompts, asked, strict=True)]
    return [turns[0]] + [(gap + prompt, answer) for prompt, answer in turns[1:]]


def draw_fields(values: Values, shape: RecordShape) -> dict[str, str]:
    """Draw field names and values, in the order of the record."""
    rng = values.rng
    target = rng.randint(shape.min_bytes, shape.max_bytes)
    fields: dict[str, str] = {}
    size = 0
    while len(fields) < shape.min_fields or (size < target and len(fields) < shape.max_fields):
        name, kind = _draw_name(values, list(fields))
        if name.lower() in (known.lower() for known in fields):
            continue
        value = _draw_value(values, kind, list(fields.values()))
        size += len(f"{name}: {value}\n".encode())
        if size > shape.max_bytes and len(fields) >= shape.min_fields:
            break
        fields[name] = value
    return fields


def _draw_name(values: Values, known: list[str]) -> tuple[str, str]:
    """Draw a field name; now and then one that begins or ends like a known one."""
    name, kind = values.field()
    if known and values.rng.random() < 0.12:
        other = values.rng.choice(known)
        joint = "_" if "_" in other or "_" in name else " "
        if len(name) + len(other) < 24:
            name = other + joint + name if values.rng.random() < 0.5 else name + joint + other
    return name, kind


def _draw_value(values: Values, kind: str, known: list[str]) -> str:
    """Draw a value; now and then of an unusual kind, or much like a known one."""
    draw = values.rng.random()
    if known and draw < 0.08:
        other = values.rng.choice(known)
        return values.number_near(other) if other.isdigit() and len(other) < 6 else values.changed(other)
    return values.value(kind if draw < 0.75 else None)


def _layout_body(values: Values, layout: str, fields: list[tuple[str, str]]) -> str:
    if layout == "list":
        return "\n".join(f"- {name}: {value}" for name, value in fields)
    if layout == "assign":
        return "\n".join(f"{name} = {value}" for name, value in fields)
    if layout == "json":
        return json.dumps(dict(fields), ensure_ascii=False, indent=values.rng.choice((None, 2)))
    if layout == "prose":
        return " ".join(f"The {name} is {value}." + _filler(values, 0.15) for name, value in fields)
    if layout == "inline":
        share = values.rng.choice((0.0, 0.2, 0.5))
        return " ".join(f'{name}="{value}"' + _filler(values, share) for name, value in fields)
    return "\n".join(f"{name}: {value}" for name, value in fields)


def _filler(values: Values, share: float) -> str:
    """Draw, in ``share`` of all cases, a filler sentence after a space."""
    return " " + values.sentence() if values.rng.random() < share else ""
