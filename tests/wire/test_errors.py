"""Errors survive the wire, and the list of them is complete."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable

import pytest
from hypothesis import given

from parrot_mq import errors
from parrot_mq.errors import ParrotError, TemplateError, rebuild_error
from parrot_mq.messages import ErrorInfo, Message, decode, encode, encode_json
from tests.wire.strategies import messages_of, unhurried

CLASSES: list[type[ParrotError]] = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, ParrotError) and value.__module__ == errors.__name__
]
EXAMPLES: dict[str, object] = {
    "str": "ein Wort 🦜",
    "int": 7,
    "float": 2.5,
    "Sequence[str]": ["second", "first"],
}
"""A value for each type of a constructor's parameters."""


def _make(cls: type[ParrotError]) -> ParrotError:
    parameters = [each for each in inspect.signature(cls).parameters.values() if each.kind is each.KEYWORD_ONLY]
    if not parameters:
        return cls("a sentence", path="here", num_attempts=3, names=["a"], is_new=True, ratio=0.5, hint=None)
    constructor: Callable[..., ParrotError] = cls
    return constructor(**{each.name: EXAMPLES[str(each.annotation)] for each in parameters})


def _assert_same(rebuilt: object, error: ParrotError) -> None:
    assert type(rebuilt) is type(error)
    assert vars(rebuilt) == vars(error)
    assert isinstance(rebuilt, ParrotError)
    assert str(rebuilt) == str(error)
    assert (rebuilt.code, rebuilt.retryable) == (error.code, error.retryable)


all_errors = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: str(cls.__name__))


@all_errors
@pytest.mark.parametrize("encoder", [encode, encode_json])
def test_an_error_is_the_same_after_the_wire(cls: type[ParrotError], encoder: Callable[[Message], bytes]) -> None:
    error = _make(cls)
    info = decode(encoder(ErrorInfo.from_error(error)), ErrorInfo)
    assert (info.code, info.message, info.retryable) == (cls.code, error.message, cls.retryable)
    _assert_same(info.to_error(), error)


@all_errors
def test_an_error_can_be_pickled_and_copied(cls: type[ParrotError]) -> None:
    error = _make(cls)
    _assert_same(pickle.loads(pickle.dumps(error)), error)
    _assert_same(copy.copy(error), error)


@all_errors
def test_the_facts_of_an_error_are_its_attributes(cls: type[ParrotError]) -> None:
    error = _make(cls)
    assert all(getattr(error, name) == value for name, value in error.facts.items())


@all_errors
def test_the_attributes_that_a_class_declares_are_there(cls: type[ParrotError]) -> None:
    declared = set(inspect.get_annotations(cls)) - set(inspect.get_annotations(ParrotError))
    if any(each.kind is each.KEYWORD_ONLY for each in inspect.signature(cls).parameters.values()):
        assert declared <= vars(_make(cls)).keys()


def test_codes_are_unique() -> None:
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z][a-z_0-9]*", code) for code in codes)


def test_an_unknown_code_is_kept() -> None:
    """Such as one that a native function of another language chose."""
    info = ErrorInfo(code="from_the_future", message="no time", retryable=True, facts={"year": 2040})
    error = info.to_error()
    assert type(error) is ParrotError
    assert (str(error), error.code, error.retryable) == ("no time", "from_the_future", True)
    assert vars(error)["year"] == 2040
    assert ErrorInfo.from_error(error) == ErrorInfo.from_error(pickle.loads(pickle.dumps(error))) == info
    assert (ParrotError("plain").code, ParrotError.retryable) == ("error", False)


def test_an_exception_that_is_not_ours_is_internal() -> None:
    info = ErrorInfo.from_error(KeyError("x"))
    assert (info.code, info.message) == ("internal", "KeyError: 'x'")


# -- strangers -------------------------------------------------------------------------------------------------------

NOT_FACTS = [
    *("message", "self", "facts", "args", "code", "retryable", "with_traceback", "add_note", "characters_written"),
    *("__class__", "__dict__", "__cause__", "__traceback__", "__reduce__", "__str__", "__notes__"),
]


@unhurried
@given(info=messages_of(ErrorInfo))
def test_any_error_of_a_stranger_can_be_rebuilt(info: ErrorInfo) -> None:
    assert info.to_error().message == info.message


@pytest.mark.parametrize("name", NOT_FACTS)
@pytest.mark.parametrize("code", ["model_not_served", "ask_timeout", "error", "from_the_future"])
def test_a_fact_cannot_replace_what_an_exception_is(name: str, code: str) -> None:
    error = ErrorInfo(code=code, message="no", facts={name: "x", "model": "large"}).to_error()
    assert (str(error), error.message, error.retryable) == ("no", "no", type(error).retryable)
    assert error.code == code
    assert vars(error)["model"] == "large"
    assert ErrorInfo.from_error(error).code == error.code
    with pytest.raises(ParrotError, match="no"):
        raise error


def test_an_error_is_made_fit_for_the_wire() -> None:
    """Half a surrogate pair cannot be encoded, and a message has a size limit."""
    error = TemplateError("\ud83e" + "x" * 100_000, place="\udc00", names=["\ud83e", *["🦜" * 100_000] * 1000])
    info = ErrorInfo.from_error(error)
    assert decode(encode(info), ErrorInfo) == decode(encode_json(info), ErrorInfo) == info
    assert info.message.startswith("?xxx")
    assert len(info.message) == 4096
    assert len(encode(info)) < 256 * 1024


# -- the list --------------------------------------------------------------------------------------------------------


def test_all_is_complete_and_sorted() -> None:
    assert errors.__all__ == sorted(errors.__all__)
    assert set(errors.__all__) == {cls.__name__ for cls in CLASSES} | {rebuild_error.__name__}


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Each line names a child of the class at the left of it, and its own children."""
    tree: dict[str, str] = {}
    parent = ""
    for line in re.findall(r"^ {6,}\w.*$", inspect.getdoc(errors) or "", re.MULTILINE):
        if not line.startswith(" " * 7):
            parent, line = line.split(maxsplit=1) if " " in line.strip() else (line.strip(), "")
            tree[parent] = "ParrotError"
        tree.update(dict.fromkeys(re.findall(r"\w+", line), parent))
    ours = {cls.__name__ for cls in CLASSES}
    bases = {cls.__name__: [base.__name__ for base in cls.__mro__[1:] if base.__name__ in ours] for cls in CLASSES}
    assert tree == {name: mro[0] for name, mro in bases.items() if mro}
