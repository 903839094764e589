"""Beginnings of prompts that may come: from the coordinator to the engine, and back that they are computed."""

from __future__ import annotations

from collections.abc import Callable

from parrot_mq.bus import Bus
from parrot_mq.messages import PrefillAhead
from parrot_mq.observability import get_logger
from parrot_workers.engine.base import PrefillRequest
from parrot_workers.prompts import Prompts

__all__ = ["Ahead"]

log = get_logger(__name__)


class Ahead:
    """What the engine is to compute ahead. Only the newest message counts.

    Args:
        bus: Where large texts are.
        tell_engine: Gives the engine the complete set.
    """

    def __init__(self, bus: Bus, tell_engine: Callable[[list[PrefillRequest]], None]) -> None:
        self._bus = bus
        self._tell_engine = tell_engine
        self._prompts = Prompts(bus, [])  # of the message before, whose texts may be named again
        self._turn = 0
        self._computed: list[str] = []

    async def read(self, message: PrefillAhead) -> None:
        """Fetch the texts and tell the engine, unless there is a newer message by then.

        What cannot be read is left out: nothing depends on it.
        """
        self._turn += 1
        turn = self._turn
        prompts = Prompts(self._bus, message.segments, texts=self._prompts.texts)
        requests = []
        for prefill in message.prefills:
            try:
                requests.append(await prompts.read_beginning(prefill))
            except Exception as error:
                log.info("prefill_left_out", key=prefill.key, error=str(error))
            if turn != self._turn:
                return
        self._prompts = prompts
        self._tell_engine(requests)

    def note_computed(self, key: str) -> None:
        """The engine has computed one."""
        self._computed.append(key)

    def take_computed(self) -> list[str]:
        """Keys of those that were computed since the last call."""
        computed, self._computed = self._computed, []
        return computed
