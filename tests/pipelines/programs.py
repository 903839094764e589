"""Pipelines for tests, also in processes of their own."""

from __future__ import annotations

from typing import Any

from parrot_mq.pipelines import Field, Limits, Pipeline, Result, Source, pipeline
from parrot_mq.program import Input, Output, Regex, semantic_function

__all__ = ["EVENTS", "RESULTS", "echo", "first", "make_pipeline", "part", "second"]

EVENTS, RESULTS = "EVENTS", "RESULTS"


@semantic_function
def first(text: Input, one: Output = Output(max_tokens=100)) -> None:
    """{{text}}.{{one}}"""


@semantic_function
def second(text: Input, two: Output = Output(max_tokens=100)) -> None:
    """{{text}}!{{two}}"""


@semantic_function
def part(text: Input, parts: Output = Output(max_tokens=100, transform=Regex("..", every=True))) -> None:
    """{{text}}?{{parts}}"""


async def chain(text: str, note: str = "") -> dict[str, Any]:
    """Two calls, one after the other."""
    if text == "BREAK":
        raise ZeroDivisionError("the program has a mistake")
    return {"two": second(text=first(text=text)), "note": note}


def make_pipeline(**changes: Any) -> Pipeline:
    """The pipeline of most tests, with changes."""
    settings: dict[str, Any] = {
        "name": "chain",
        "source": Source(stream=EVENTS, id="/id"),
        "inputs": {"text": Field(pointer="/text"), "note": Field(pointer="/note", default="none")},
        "program": chain,
        "result": Result(subject="results.chain"),
        "limits": Limits(max_attempts=2),
    }
    return Pipeline(**{**settings, **changes})


@pipeline(
    source=Source(stream=EVENTS, id="/id", ack_wait_s=1.0),
    inputs={"text": "/text"},
    result=Result(subject="results.echo"),
    limits=Limits(concurrency=128),
)
async def echo(text: str) -> dict[str, Any]:
    """One call."""
    return {"one": first(text=text)}
