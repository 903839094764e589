"""The point where a worker's engine is chosen, and torch is imported."""

from __future__ import annotations

from parrot_workers.config import WorkerConfig
from parrot_workers.engine.base import Engine

__all__ = ["create_engine"]


def create_engine(config: WorkerConfig) -> Engine:
    """Load the model and make its engine. Takes as long as reading the weights does; call it in the engine's thread.

    Raises:
        CheckpointError: The model folder cannot be served.
        ConfigurationError: torch is missing, or the device is not there.
    """
    from parrot_workers.models import import_extra, load_model

    torch = import_extra("torch")
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(config.model_path, device=device, dtype=config.dtype)

    from parrot_workers.engine.engine import SimpleEngine

    return SimpleEngine(
        model,
        num_slots=config.num_slots,
        max_context_tokens=config.max_context_tokens,
        min_shared_tokens=config.min_shared_tokens,
    )
