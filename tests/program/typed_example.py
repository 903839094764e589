"""Calls as a type checker sees them; checked with the rest under mypy --strict, and run by test_calls.py."""

from __future__ import annotations

from typing import Annotated, assert_type

from parrot_mq.program import Input, Output, PromptCall, SemanticVariable, Separator, semantic_function
from parrot_mq.types import TextPiece


@semantic_function
def summarise(passage: Input, summary: Output = Output(max_tokens=48, stop="\n")) -> None:
    """Summarise the passage in one sentence.

    Passage: {{passage}}
    Summary: {{summary}}"""


@semantic_function(model="tiny", timeout_s=60, name="jokes")
def tell(
    topic: Input,
    style: Input = "dry",
    joke: Output = Output(max_tokens=64, temperature=0.8),
    explanation: Output = Output(stop=["\n\n", "Q:"]),
) -> None:
    """A {{style}} joke about {{topic}}: {{joke}}
    Why it is funny: {{explanation}}"""


@semantic_function
def merge(parts: Annotated[Input, Separator("\n---\n")], merged: Output = Output()) -> None:
    """One text from several:
    {{parts}}
    The text: {{merged}}"""


async def use() -> str:
    """Every kind of argument, and the types that come back."""
    summary = summarise(passage="a text")
    assert_type(summary, SemanticVariable)
    assert_type(summarise.using(model="other")("a text"), SemanticVariable)
    assert_type(summarise.bind("a text"), PromptCall)
    joke, explanation = tell.outputs(summary, style="warm")
    assert_type(joke, SemanticVariable)
    merged = merge([summary, "a text", joke, explanation])
    merge(("a", "b"))
    merge(parts=[joke, explanation])
    text = await merged
    assert_type(text, str)
    async for piece in joke.stream():
        assert_type(piece, TextPiece)
    return text


def misuse(variable: SemanticVariable) -> None:
    """What a type checker refuses; each comment would be an error if the line were allowed."""
    summarise()  # type: ignore[call-arg]
    summarise(pasage="a text")  # type: ignore[call-arg]
    summarise(passage=3)  # type: ignore[arg-type]
    summarise(passage=None)  # type: ignore[arg-type]
    summarise(passage=[3])  # type: ignore[list-item]
    summarise(passage="a text", summary="mine")  # type: ignore[arg-type]
    summarise.using(model="other")(pasage="a text")  # type: ignore[call-arg]
    summarise.map(pasage=variable)  # type: ignore[call-arg]
    tell.outputs(topics="parrots")  # type: ignore[call-arg]
    "Summary: " + variable  # type: ignore[operator]
