"""The texts of running generations so far, for readers who come late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from parrot_mq.bus import Bus, Delivery, answer_replay
from parrot_mq.errors import InvalidName
from parrot_mq.messages import Generation, parse_replay

__all__ = ["Replays"]


@dataclass(frozen=True, slots=True)
class _Text:
    """What one generation wrote, in pieces."""

    generation: Generation
    pieces: list[str]
    headers: Mapping[str, str]


class Replays:
    """Keeps what is generated, and sends it to whoever asks for it.

    A piece is kept before it is published. So who listens first and asks then misses nothing between the answer and
    what is published after it.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._texts: dict[str, _Text] = {}

    def begin(self, generation: Generation, text: str, headers: Mapping[str, str]) -> None:
        """It runs; `text` is what an earlier attempt had generated, `headers` what its deltas carry."""
        self._texts[generation.key] = _Text(generation, [text], headers)

    def extend(self, key: str, text: str) -> None:
        """There is more of it; an unknown key is ignored."""
        if found := self._texts.get(key):
            found.pieces.append(text)

    def forget(self, key: str) -> None:
        """It does not run here any more."""
        self._texts.pop(key, None)

    async def answer(self, request: Delivery) -> None:
        """Send the text so far, if it is generated here; else nothing, for another worker may have it."""
        try:
            address = parse_replay(request.subject)
        except InvalidName:
            return
        if found := self._texts.get(".".join(address)):
            found.pieces[:] = ["".join(found.pieces)]
            attempt, text = found.generation.attempt, found.pieces[0]
            await answer_replay(self._bus, request, attempt=attempt, text=text, headers=found.headers)
