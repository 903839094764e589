"""The models' tests use the small checkpoints of the worker's tests."""

from tests.workers.conftest import checkpoint, loaded

__all__ = ["checkpoint", "loaded"]
