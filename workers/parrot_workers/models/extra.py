"""Packages that only workers need, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from parrot_mq.errors import ConfigurationError

__all__ = ["import_extra"]


def import_extra(name: str) -> ModuleType:
    """Import a module that only workers need.

    Raises:
        ConfigurationError: It is not installed; the sentence names the extra.
    """
    try:
        return import_module(name)
    except ImportError as error:
        sentence = f"a worker needs {error.name}: install it with `pip install 'parrot-mq[worker]'`"
        raise ConfigurationError(sentence, setting="worker") from error
