"""The file of settings: every mistake is named, and where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from parrot_mq.autoscale.settings import NO_LIMIT, AutoscalerConfig, load_settings
from parrot_mq.errors import ConfigurationError

SHIPPED = Path(__file__).parents[2] / "deploy" / "etc" / "autoscaler.toml"


def _load(folder: Path, text: str) -> AutoscalerConfig:
    path = folder / "autoscaler.toml"
    path.write_text(text)
    return load_settings(path)


def test_a_model_has_the_common_settings_and_its_own(tmp_path: Path) -> None:
    text = """
    tick_s = 1
    adopt = true
    [policy]
    idle_to_zero_s = 60
    min_workers = 1
    [models.small]
    slots = "0-2, 5"
    [models."org/large"]
    slots = [3, 4]
    min_workers = 0
    max_workers = 1
    """
    config = _load(tmp_path, text)
    small, large = config.models["small"], config.models["org/large"]
    assert (config.tick_s, config.adopt) == (1, True)
    assert (small.slots, small.policy.max_workers, small.policy.min_workers) == ((0, 1, 2, 5), NO_LIMIT, 1)
    assert (large.slots, large.policy.max_workers, large.policy.min_workers) == ((3, 4), 1, 0)
    assert small.policy.idle_to_zero_s == large.policy.idle_to_zero_s == 60
    assert config.unit_of(5) == "parrot-worker@5.service"


def test_the_file_that_is_shipped_can_be_read() -> None:
    assert list(load_settings(SHIPPED).models) == ["tiny"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "at least one model"),
        ("[models.a]", "at least one"),
        ("models = 3", "models must be a table"),
        ("[models]\na = 3", r"models\.a must be a table"),
        ("tick = 2\n[models.a]\nslots = '0'", "tick is not a setting"),
        ("[models.a]\nslots = '0'\nspeed = 3", r"models\.a\.speed is not a setting"),
        ("[policy]\nspeed = 3\n[models.a]\nslots = '0'", r"policy\.speed is not a setting"),
        ("tick_s = 'fast'\n[models.a]\nslots = '0'", "tick_s must be a number, got 'fast'"),
        ("tick_s = true\n[models.a]\nslots = '0'", "tick_s must be a number, got True"),
        ("tick_s = 0\n[models.a]\nslots = '0'", r"tick_s must be 0\.1 to 60"),
        ("hold_s = -1\n[models.a]\nslots = '0'", "hold_s must not be negative"),
        ("unit = 'w.service'\n[models.a]\nslots = '0'", "unit must be the name of a service"),
        ("[models.a]\nslots = 'all'", r"models\.a\.slots must be such as"),
        ("[models.a]\nslots = [1.5]", r"models\.a\.slots must be such as"),
        ("[models.a]\nslots = '0-9999999999'", "slots of a model must be 0 to 999"),
        ("[models.a]\nslots = '1,1'", "different numbers"),
        ("[models.a]\nslots = '0'\n[models.b]\nslots = '0'", "each slot runs one model; more than one have 0"),
        ("[models.a]\nslots = '0'\nmin_workers = 3\nmax_workers = 2", "0 <= min_workers <= max_workers"),
        ("[models.a", "cannot read the settings"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        _load(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing\.toml"):
        load_settings(tmp_path / "nothing.toml")
