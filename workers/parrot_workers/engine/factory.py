"""The point where a worker's engine is chosen, and torch is imported."""

from __future__ import annotations

from parrot_workers.config import WorkerConfig
from parrot_workers.engine.base import Engine
from parrot_workers.models.progress import Report, silent

__all__ = ["create_engine"]

MIN_THREADED_PARAMETERS = 20_000_000
"""Smaller models run on one thread: several would spend their time waiting for each other."""


def create_engine(config: WorkerConfig, report: Report = silent) -> Engine:
    """Load the model, make its engine and warm it up. Takes as long as reading the weights does, so call it in the
    engine's thread.

    Args:
        config: Which model, and how it runs.
        report: Is told the stage and how much of it is done, from 0 to 1.

    Raises:
        CheckpointError: The model folder cannot be served.
        ConfigurationError: torch is missing, or the device or the attention is not there.
    """
    from parrot_workers.models import import_extra, load_model

    torch = import_extra("torch")
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(
        config.model_path,
        device=device,
        dtype=config.dtype,
        is_fused=config.fused_layers,
        is_packed=config.fused_layers,
        report=report,
    )
    if num_threads := config.num_threads or (1 if model.num_parameters < MIN_THREADED_PARAMETERS else 0):
        torch.set_num_threads(num_threads)

    from parrot_workers.engine.assembly import assemble, warm_up

    engine = assemble(model, config)
    warm_up(engine, report)
    return engine
