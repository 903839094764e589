"""Hugging Face checkpoints. Importing this package imports no torch; loading a model does."""

from parrot_workers.models.extra import import_extra
from parrot_workers.models.loaded_model import LoadedModel
from parrot_workers.models.loader import load_model
from parrot_workers.models.paged import ForwardContext, LayerSpec, forward

__all__ = ["ForwardContext", "LayerSpec", "LoadedModel", "forward", "import_extra", "load_model"]
