"""The same short logs as the coordinator's tests have."""

from tests.coordinator.conftest import _short_logs

__all__ = ["_short_logs"]
