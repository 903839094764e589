"""parrot-mq: serve LLM applications over NATS.

A program is a graph of prompts joined by semantic variables; a variable is a NATS subject that is written once. What a
program needs is here; the parts are in the packages: `client`, `program`, `messages`, `bus`, `actors`, `coordinator`.
"""

from parrot_mq.client import Client, Session
from parrot_mq.errors import ParrotError
from parrot_mq.program import (
    Input,
    Join,
    JsonPointer,
    ListVariable,
    Output,
    Regex,
    SemanticVariable,
    Separator,
    Split,
    Strip,
    native_function,
    select,
    semantic_function,
)
from parrot_mq.types import Objective

__all__ = [
    "Client",
    "Input",
    "Join",
    "JsonPointer",
    "ListVariable",
    "Objective",
    "Output",
    "ParrotError",
    "Regex",
    "SemanticVariable",
    "Separator",
    "Session",
    "Split",
    "Strip",
    "native_function",
    "select",
    "semantic_function",
]
