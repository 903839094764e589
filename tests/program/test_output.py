"""How an output is generated, and what is refused."""

from __future__ import annotations

import pytest

from parrot_mq.errors import ConfigurationError
from parrot_mq.program import Output
from parrot_mq.types import Sampling


def test_an_output_without_arguments_is_sampled_as_the_wire_says() -> None:
    assert Output().sampling == Sampling()


def test_the_arguments_become_the_sampling() -> None:
    output = Output(max_tokens=48, stop="\n", temperature=1, top_p=0.9, top_k=40, seed=-7)
    assert output.sampling == Sampling(max_tokens=48, stop=("\n",), temperature=1.0, top_p=0.9, top_k=40, seed=-7)


@pytest.mark.parametrize("stop", [["a", "b"], ("a", "b")])
def test_stop_is_a_text_or_several(stop: list[str]) -> None:
    assert Output(stop=stop).sampling.stop == ("a", "b")


def test_outputs_are_values() -> None:
    assert Output(max_tokens=3) == Output(max_tokens=3)
    assert Output(max_tokens=3) != Output()
    assert hash(Output(seed=1)) == hash(Output(seed=1))
    assert repr(Output(max_tokens=3, stop="\n")) == "Output(max_tokens=3, stop=('\\n',))"
    assert repr(Output()) == "Output()"


@pytest.mark.parametrize(
    ("argument", "value", "rule"),
    [
        ("max_tokens", 0, "a whole number from 1 to 1,000,000"),
        ("max_tokens", 1_000_001, "a whole number from 1 to 1,000,000"),
        ("max_tokens", 1.5, "a whole number from 1 to 1,000,000"),
        ("max_tokens", "64", "a whole number from 1 to 1,000,000"),
        ("max_tokens", True, "a whole number from 1 to 1,000,000"),
        ("max_tokens", None, "a whole number from 1 to 1,000,000"),
        ("stop", "", "a text of 1 to 256 characters, or a list of such texts"),
        ("stop", ["a", "b" * 257], "a text of 1 to 256 characters, or a list of such texts"),
        ("stop", [3], "a text of 1 to 256 characters, or a list of such texts"),
        ("stop", "\ud800", "a text of 1 to 256 characters, or a list of such texts"),
        ("stop", None, "a text of 1 to 256 characters, or a list of such texts"),
        ("temperature", -0.1, "a number from 0 to 10"),
        ("temperature", 10.1, "a number from 0 to 10"),
        ("temperature", float("nan"), "a number from 0 to 10"),
        ("temperature", float("inf"), "a number from 0 to 10"),
        ("temperature", "hot", "a number from 0 to 10"),
        ("top_p", 0, "a number above 0 and at most 1"),
        ("top_p", 1.01, "a number above 0 and at most 1"),
        ("top_p", float("nan"), "a number above 0 and at most 1"),
        ("top_k", -1, "a whole number from 0 (keep all) to 2**63 - 1"),
        ("top_k", 2**63, "a whole number from 0 (keep all) to 2**63 - 1"),
        ("seed", 2**63, "a whole number from -2**63 to 2**63 - 1, or None"),
        ("seed", -(2**63) - 1, "a whole number from -2**63 to 2**63 - 1, or None"),
        ("seed", "1", "a whole number from -2**63 to 2**63 - 1, or None"),
    ],
)
def test_a_bad_value_is_refused_with_the_argument_and_its_range(argument: str, value: object, rule: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Output(**{argument: value})  # type: ignore[arg-type]
    assert caught.value.message == f"Output({argument}={value!r}) cannot be used: {argument} is {rule}"
    assert caught.value.facts == {"argument": argument}


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("max_tokens", 1),
        ("max_tokens", 1_000_000),
        ("stop", "b" * 256),
        ("temperature", 0),
        ("temperature", 10),
        ("top_p", 1),
        ("top_p", 1e-9),
        ("top_k", 0),
        ("top_k", 2**63 - 1),
        ("seed", -(2**63)),
        ("seed", 2**63 - 1),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(argument: str, value: object) -> None:
    Output(**{argument: value})  # type: ignore[arg-type]
