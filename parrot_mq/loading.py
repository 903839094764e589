"""Objects of a user's own code, by the name that stands in a file or on a command line."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from parrot_mq.errors import ParrotError

__all__ = ["Complaint", "find_in", "load_module"]

Complaint = Callable[[str, str], ParrotError]
"""Makes the error of what is wrong and what to do about it."""

_MAX_SHOWN = 12


def load_module(reference: str, folder: Path, complain: Complaint) -> ModuleType:
    """Import `module` or `FILE.py`; modules beside the file, or in `folder`, are found, too.

    Raises:
        ParrotError: As `complain` says: there is none, or it cannot be imported.
    """
    name, path = reference, None
    if reference.endswith(".py"):
        path = (folder / reference).resolve()
        if not path.is_file():
            raise complain(f"there is no file {str(path)!r}", "name a Python file")
        folder, name = path.parent, path.stem
    module = _import(name, folder, complain)
    if path is not None and module.__file__ is not None and Path(module.__file__).resolve() != path:
        raise complain(f"a module {name!r} was loaded before, from {module.__file__}", "rename the file")
    return module


def _import(name: str, folder: Path, complain: Complaint) -> ModuleType:
    if str(folder.resolve()) not in sys.path:
        sys.path.insert(0, str(folder.resolve()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        problem = f"there is no module {error.name!r}"
        raise complain(problem, f"install it, or put it into {folder}") from error
    except Exception as error:
        problem = f"module {name!r} cannot be imported: {type(error).__name__}: {error}"
        raise complain(problem, "mend it") from error


def find_in(module: ModuleType, name: str, complain: Complaint) -> object:
    """What a module calls `name`.

    Raises:
        ParrotError: As `complain` says: there is nothing of this name.
    """
    if not hasattr(module, name):
        known = [each for each in vars(module) if not each.startswith("_")]
        there = ", ".join(known[:_MAX_SHOWN]) or "nothing"
        raise complain(f"there is no {name!r} in module {module.__name__!r}", f"there is {there}")
    return getattr(module, name)
