"""How an output is generated, and what is refused."""

from __future__ import annotations

import inspect

import pytest

from parrot_mq.errors import ConfigurationError
from parrot_mq.program import Output
from parrot_mq.types import Sampling


def test_an_output_without_arguments_is_sampled_as_the_wire_says() -> None:
    assert Output().sampling == Sampling()


def test_the_arguments_become_the_sampling() -> None:
    output = Output(max_tokens=48, stop="\n", temperature=1, top_p=0.9, top_k=40, seed=-7)
    assert output.sampling == Sampling(max_tokens=48, stop=("\n",), temperature=1.0, top_p=0.9, top_k=40, seed=-7)
    output = Output(
        min_tokens=2,
        stop_token_ids=[7],
        ignore_eos=True,
        min_p=0.1,
        repetition_penalty=1.5,
        presence_penalty=-1,
        frequency_penalty=0.5,
        logit_bias={3: 1},
        logprobs=4,
    )
    assert output.sampling == Sampling(
        min_tokens=2,
        stop_token_ids=(7,),
        ignore_eos=True,
        min_p=0.1,
        repetition_penalty=1.5,
        presence_penalty=-1.0,
        frequency_penalty=0.5,
        logit_bias={3: 1.0},
        logprobs=4,
    )


def test_every_field_of_the_wire_has_an_argument() -> None:
    assert set(inspect.signature(Output).parameters) == {*Sampling.__struct_fields__, "objective", "transform"}


@pytest.mark.parametrize("stop", [["a", "b"], ("a", "b")])
def test_stop_is_a_text_or_several(stop: list[str]) -> None:
    assert Output(stop=stop).sampling.stop == ("a", "b")


def test_outputs_are_values() -> None:
    assert Output(max_tokens=3) == Output(max_tokens=3)
    assert Output(max_tokens=3) != Output()
    assert hash(Output(seed=1)) == hash(Output(seed=1))
    assert hash(Output(logit_bias={1: 1, 2: 2})) == hash(Output(logit_bias={2: 2.0, 1: 1.0}))
    assert len({Output(), Output(logit_bias={1: 1}), Output(min_p=0.1)}) == 3
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
        ("min_tokens", -1, "a whole number from 0 to max_tokens"),
        ("min_tokens", 257, "a whole number from 0 to max_tokens"),
        ("stop_token_ids", [-1], "a list of at most 256 token ids"),
        ("stop_token_ids", [2**31], "a list of at most 256 token ids"),
        ("stop_token_ids", [0] * 257, "a list of at most 256 token ids"),
        ("stop_token_ids", "7", "a list of at most 256 token ids"),
        ("ignore_eos", 1, "True or False"),
        ("min_p", -0.1, "a number from 0 to 1"),
        ("min_p", 1.1, "a number from 0 to 1"),
        ("min_p", float("nan"), "a number from 0 to 1"),
        ("repetition_penalty", 0, "a number above 0 and at most 10"),
        ("repetition_penalty", 10.1, "a number above 0 and at most 10"),
        ("presence_penalty", 2.1, "a number from -2 to 2"),
        ("frequency_penalty", -2.1, "a number from -2 to 2"),
        ("logit_bias", {"7": 1}, "numbers from -100 to 100 by token id, at most 1,024 of them"),
        ("logit_bias", {7: 101}, "numbers from -100 to 100 by token id, at most 1,024 of them"),
        ("logit_bias", {7: float("nan")}, "numbers from -100 to 100 by token id, at most 1,024 of them"),
        ("logit_bias", [7], "numbers from -100 to 100 by token id, at most 1,024 of them"),
        ("logit_bias", dict.fromkeys(range(1025), 1), "numbers from -100 to 100 by token id, at most 1,024 of them"),
        ("logprobs", 21, "a whole number from 0 (none) to 20"),
        ("logprobs", True, "a whole number from 0 (none) to 20"),
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
        ("min_tokens", 256),
        ("stop_token_ids", [0, 2**31 - 1]),
        ("min_p", 1),
        ("repetition_penalty", 10),
        ("repetition_penalty", 1e-9),
        ("presence_penalty", -2),
        ("frequency_penalty", 2),
        ("logit_bias", {0: -100, 2**31 - 1: 100}),
        ("logprobs", 20),
        ("seed", -(2**63)),
        ("seed", 2**63 - 1),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(argument: str, value: object) -> None:
    Output(**{argument: value})  # type: ignore[arg-type]
