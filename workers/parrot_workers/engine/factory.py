"""The point where a worker's engine is chosen, and torch is imported."""

from __future__ import annotations

from parrot_workers.config import WorkerConfig
from parrot_workers.engine.base import Engine

__all__ = ["create_engine"]

MIN_THREADED_PARAMETERS = 20_000_000
"""Smaller models run on one thread: several would spend their time waiting for each other."""


def create_engine(config: WorkerConfig) -> Engine:
    """Load the model and make its engine. Takes as long as reading the weights does; call it in the engine's thread.

    Raises:
        CheckpointError: The model folder cannot be served.
        ConfigurationError: torch is missing, or the device is not there.
    """
    from parrot_workers.models import import_extra, load_model

    torch = import_extra("torch")
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(config.model_path, device=device, dtype=config.dtype)
    if num_threads := config.num_threads or (1 if model.num_parameters < MIN_THREADED_PARAMETERS else 0):
        torch.set_num_threads(num_threads)

    from parrot_workers.engine.engine import SimpleEngine

    return SimpleEngine(
        model,
        num_slots=config.num_slots,
        max_context_tokens=config.max_context_tokens,
        min_shared_tokens=config.min_shared_tokens,
    )
