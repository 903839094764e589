"""How far a model is with loading: reported in the engine's thread, told on the event loop."""

from __future__ import annotations

from collections.abc import Callable

from parrot_mq.errors import GenerationAborted
from parrot_mq.messages import LoadProgress

__all__ = ["LoadReporter"]


class LoadReporter:
    """What a factory of engines calls with its progress.

    Args:
        on_progress: Told on the event loop: at least of the last progress, and not of every one if there are many.
        is_stopping: Whether the engine is not wanted any more.
        tell_loop: Lets the event loop call something.
    """

    def __init__(
        self,
        on_progress: Callable[[LoadProgress], None],
        *,
        is_stopping: Callable[[], bool],
        tell_loop: Callable[[Callable[[], None]], None],
    ) -> None:
        self._on_progress = on_progress
        self._is_stopping = is_stopping
        self._tell_loop = tell_loop
        self._will_tell = False
        self.progress = LoadProgress(stage="starting")

    def __call__(self, stage: str, fraction: float) -> None:
        """Take progress down.

        Raises:
            GenerationAborted: The engine is not wanted any more; loading it ends here.

        Thread: that of the engine.
        """
        if self._is_stopping():
            raise GenerationAborted("the worker was stopped while it loaded its model")
        self.progress = LoadProgress(stage=stage, fraction=min(max(fraction, 0.0), 1.0))
        if not self._will_tell:
            self._will_tell = True
            self._tell_loop(self._tell)

    def _tell(self) -> None:
        self._will_tell = False  # before reading it: what is reported from here on is told again
        self._on_progress(self.progress)
