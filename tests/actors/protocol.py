"""Messages and an actor for the tests across processes."""

from __future__ import annotations

import asyncio

from parrot_mq.actors import Actor
from parrot_mq.errors import ContextLengthExceeded
from parrot_mq.messages import Message


class Say(Message, frozen=True, kw_only=True, omit_defaults=True, tag="test.say"):
    """Remember a text and answer with it."""

    text: str


class Recall(Message, frozen=True, kw_only=True, omit_defaults=True, tag="test.recall"):
    """Answer with all texts."""


class Do(Message, frozen=True, kw_only=True, omit_defaults=True, tag="test.do"):
    """Misbehave, or wait: refuse, crash, wait, answer_oddly, stop."""

    what: str


class Said(Message, frozen=True, kw_only=True, omit_defaults=True, tag="test.said"):
    """What was said."""

    texts: list[str]


Request = Say | Recall | Do


class Parrot(Actor):
    """Repeats what it hears."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.texts: list[str] = []

    async def receive(self, message: Request) -> object:
        match message:
            case Say(text=text):
                self.texts.append(text)
                return Said(texts=[text])
            case Recall():
                return Said(texts=self.texts)
            case Do(what="refuse"):
                raise ContextLengthExceeded(num_prompt_tokens=9, max_tokens=2, limit=10)
            case Do(what="crash"):
                raise OSError("no space")
            case Do(what="wait"):
                await self.gate.wait()
            case Do(what="answer_oddly"):
                return 42
            case Do(what="stop"):
                self.context.stop()
        return None
