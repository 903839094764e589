"""How a worker is, for the service manager: what it does, whether it gets on, whether it is stuck."""

from __future__ import annotations

from collections.abc import Callable

from parrot_mq.messages import EngineReport, WorkerStatus
from parrot_mq.observability import Condition
from parrot_workers.board import WorkerBoard

__all__ = ["WorkerCondition"]

DRAIN_PATIENCE_S = 15.0
"""A worker that drains gets so long for each token."""


class WorkerCondition:
    """Reads a worker's condition from its board.

    A worker is stuck when its engine takes too long for one step, or for loading its model again. One that has nothing
    to do is not: no step is in progress then.

    Args:
        board: What is to be seen of the worker.
        max_step_s: A step that takes longer means that the engine is stuck.
        max_stage_s: Loading that gets no further for longer is stuck.
        monotonic: Tells the time.
    """

    def __init__(
        self, board: WorkerBoard, *, max_step_s: float, max_stage_s: float, monotonic: Callable[[], float]
    ) -> None:
        self._board = board
        self._max_step_s = max_step_s
        self._max_stage_s = max_stage_s
        self._monotonic = monotonic
        self._is_stopping = False
        self._was_ready = False
        self._progress: object = None
        self._progress_at = monotonic()
        self._tokens: tuple[float, int] = (monotonic(), 0)

    def stop(self) -> None:
        """From now on it stops."""
        self._is_stopping = True

    def read(self) -> Condition:
        """How it is now; called from time to time, for it measures its speed in between."""
        status = self._board.status()
        state = status.state if status is not None else "loading"
        self._was_ready |= state == "ready"
        self._note_progress(_progress(status))
        stuck = self._why_stuck(state)
        return Condition(
            phase="stopping" if self._is_stopping else "ready" if self._was_ready else "starting",
            status=stuck or self._words(status),
            progress=self._progress,
            patience_s=DRAIN_PATIENCE_S if self._is_stopping else self._max_stage_s,
            is_alive=not stuck,
        )

    def _note_progress(self, progress: object) -> None:
        if progress != self._progress:
            self._progress, self._progress_at = progress, self._monotonic()

    def _why_stuck(self, state: str) -> str:
        step_s = self._board.read_step_s()
        if step_s > self._max_step_s:
            return f"stuck: the engine is in one step for {step_s:.0f} s"
        quiet_s = self._monotonic() - self._progress_at
        if self._was_ready and state == "loading" and quiet_s > self._max_stage_s:
            return f"stuck: loading the model again got no further for {quiet_s:.0f} s"
        return ""

    def _words(self, status: WorkerStatus | None) -> str:
        if status is None:
            return "starting"
        if status.state == "loading":
            loading = status.loading
            return f"{status.model}: {loading.stage} {loading.fraction:.0%}" if loading is not None else "loading"
        speed = self._speed(status.engine or EngineReport())
        running = f"{status.model}: {len(status.running)}/{status.num_slots} running, {speed:.0f} tok/s"
        return running if status.state == "ready" else f"{running}, {status.state}"

    def _speed(self, engine: EngineReport) -> float:
        """Tokens generated in a second since the last look."""
        (before, told), now = self._tokens, self._monotonic()
        self._tokens = now, engine.num_output_tokens
        return max(0, engine.num_output_tokens - told) / (now - before) if now > before else 0.0


def _progress(status: WorkerStatus | None) -> object:
    if status is None:
        return None
    if status.state == "loading":
        return status.loading and (status.loading.stage, status.loading.fraction)
    engine = status.engine or EngineReport()
    return (engine.num_output_tokens, engine.num_computed_tokens, len(status.running))
