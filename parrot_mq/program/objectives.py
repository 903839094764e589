"""What is wanted of every unfinished generation, deduced backwards from what is wanted of variables.

Source: Parrot, OSDI'24, section 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from parrot_mq.types import Objective

__all__ = ["Standing"]


@dataclass(frozen=True, slots=True)
class Standing:
    """What deduction says of a generation.

    Attributes:
        objective: What is wanted of it.
        group: Names its node group: parallel producers of one stage, which is judged by its last member. Empty if it is
            alone. `tenant.session.<name>`, so unique in the service.
        group_size: Unfinished members of the group; 1 if it is alone.
        group_kind: What is wanted of the group as a whole; as `objective` says if it is empty. A member of a `latency`
            group is `throughput` by itself, for the group is batched and not raced; and yet it goes early.
        stage: Generations on the longest way from it to one that nobody reads: 0 for that one. Of equal work of one
            session, what is further from the end goes first. Above 4 it is rounded down to a power of two, at most 32.
        due_at: When the first thing that is made of it has to be started, or it itself, seconds since 1970; None if
            nobody has said so.
    """

    objective: Objective = Objective()
    group: str = ""
    group_size: int = 1
    group_kind: Literal["", "latency", "throughput"] = ""
    stage: int = 0
    due_at: float | None = None

    @property
    def is_urgent(self) -> bool:
        """Whether somebody waits for it, or for what becomes of it."""
        return (self.group_kind or self.objective.kind) == "latency"
