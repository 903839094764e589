"""Hugging Face checkpoints. Importing this package imports no torch; loading a model does."""

from parrot_workers.models.loader import LoadedModel, import_extra, load_model

__all__ = ["LoadedModel", "import_extra", "load_model"]
