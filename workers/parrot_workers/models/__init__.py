"""Hugging Face checkpoints. Importing this package imports no torch; loading a model does."""
