"""What the package offers."""

from __future__ import annotations

import importlib
import pkgutil

from parrot_mq import program


def test_everything_in_all_is_there_and_sorted() -> None:
    assert program.__all__ == sorted(program.__all__)
    assert all(hasattr(program, name) for name in program.__all__)


def test_every_module_says_what_is_public() -> None:
    for info in pkgutil.iter_modules(program.__path__, "parrot_mq.program."):
        module = importlib.import_module(info.name)
        assert set(module.__all__) <= vars(module).keys(), info.name


def test_what_the_package_offers_is_public_in_its_module() -> None:
    modules = [
        importlib.import_module(info.name) for info in pkgutil.iter_modules(program.__path__, "parrot_mq.program.")
    ]
    public = {name for module in modules for name in module.__all__}
    assert set(program.__all__) <= public
