"""Fixtures of the worker's tests: one thread, no network, small checkpoints made once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import settings
from parrot_workers.models import LoadedModel, load_model

from tests.workers.checkpoints import FAMILIES, save_checkpoint

settings.register_profile("workers", deadline=None)  # the first call into torch takes long
settings.load_profile("workers")
torch.set_num_threads(1)  # more threads than cores make the small models of tests slow


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a small random checkpoint, by family."""
    folders: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in folders:
            folders[family] = save_checkpoint(tmp_path_factory.mktemp("checkpoints") / family, FAMILIES[family]())
        return folders[family]

    return get


@pytest.fixture(scope="session")
def loaded(checkpoint: Callable[[str], Path]) -> Callable[[str], LoadedModel]:
    """A small random model, by family, loaded by the real loader."""
    models: dict[str, LoadedModel] = {}

    def get(family: str) -> LoadedModel:
        if family not in models:
            models[family] = load_model(checkpoint(family))
        return models[family]

    return get
