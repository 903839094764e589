"""A bus that fails to store variables, some times."""

from __future__ import annotations

from typing import Any

from parrot_mq.bus import MemoryBus, MemoryServer, Stored

__all__ = ["RefusingBus"]


class RefusingBus(MemoryBus):
    """Raises one of the errors each time that a variable is to be stored, as long as there are some."""

    def __init__(self, server: MemoryServer, errors: list[Exception]) -> None:
        super().__init__(server)
        self.errors = errors

    async def publish_once(self, subject: str, payload: bytes, **kwargs: Any) -> Stored:
        if ".var." in subject and self.errors:
            raise self.errors.pop()
        return await super().publish_once(subject, payload, **kwargs)
