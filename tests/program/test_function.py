"""What a semantic function may look like; errors come when it is defined."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import pytest

from parrot_mq.errors import CallError, ConfigurationError, InvalidName, TemplateError
from parrot_mq.program import Input, Output, SemanticVariable, Separator, semantic_function
from parrot_mq.types import Sampling
from tests.program.recording_session import RecordingSession
from tests.program.typed_example import merge, summarise, tell


def _definition_error(function: Callable[..., Any]) -> str:
    with pytest.raises(TemplateError) as caught:
        semantic_function(function)
    place, _, problem = caught.value.message.partition("): ")
    assert place == f"semantic function `{function.__name__}` ({__file__}:{function.__code__.co_firstlineno}"
    return problem


def test_parameters_are_roles_and_the_docstring_is_the_template() -> None:
    assert list(summarise.spec.separators) == ["passage"]
    assert summarise.spec.outputs == {"summary": Sampling(max_tokens=48, stop=("\n",))}
    assert summarise.spec.template.source == (
        "Summarise the passage in one sentence.\n\nPassage: {{passage}}\nSummary: {{summary}}"
    )


def test_outputs_are_in_the_order_of_the_template() -> None:
    @semantic_function
    def function(a: Input, second: Output = Output(seed=2), first: Output = Output(seed=1)) -> None:
        """{{a}} {{first}} {{second}}"""

    assert list(function.spec.outputs) == ["first", "second"]
    assert [sampling.seed for sampling in function.spec.outputs.values()] == [1, 2]


def test_options_are_given_to_the_decorator() -> None:
    assert (tell.name, tell.model, tell.timeout_s) == ("jokes", "tiny", 60.0)
    assert (summarise.name, summarise.model, summarise.timeout_s) == ("summarise", "", None)


def test_inputs_may_have_default_texts_and_separators() -> None:
    assert tell.spec.defaults == {"style": "dry"}
    assert merge.spec.separators == {"parts": "\n---\n"}


def test_an_output_without_default_is_sampled_as_the_wire_says() -> None:
    @semantic_function
    def function(a: Input, out: Output) -> None:
        """{{a}} {{out}}"""

    assert function.spec.outputs == {"out": Sampling()}


def test_inputs_may_be_annotated_as_texts_and_variables() -> None:
    @semantic_function
    def function(
        a: str,
        b: list[str],
        c: SemanticVariable,
        d: str | SemanticVariable,
        e: Sequence[SemanticVariable],
        f: tuple[str, ...],
        g: Annotated[list[str], "note", Separator("|")],
        out: Annotated[Output, "note"] = Output(),
    ) -> None:
        """{{a}} {{b}} {{c}} {{d}} {{e}} {{f}} {{g}} {{out}}"""

    assert list(function.spec.separators) == list("abcdefg")
    assert function.spec.separators["g"] == "|"


def test_annotations_need_not_be_strings() -> None:
    """This module has postponed annotations; a module without them works too."""

    def function(a: Any, out: Any) -> None:
        """{{a}} {{out}}"""

    function.__annotations__ = {"a": Input, "out": Output, "return": None}
    assert semantic_function(function).spec.outputs == {"out": Sampling()}


def test_an_ellipsis_after_the_docstring_is_no_code() -> None:
    @semantic_function
    def function(a: Input, out: Output) -> None:
        """{{a}} {{out}}"""
        ...  # noqa: PIE790

    @semantic_function
    def other(a: Input, out: Output) -> None:
        """{{a}} {{out}}"""
        pass  # noqa: PIE790

    assert function.spec.outputs == other.spec.outputs


def test_it_looks_like_the_function_that_it_was_made_of() -> None:
    assert summarise.__name__ == "summarise"
    assert (summarise.__doc__ or "").startswith("Summarise the passage")
    assert list(inspect.signature(summarise).parameters) == ["passage", "summary"]
    assert repr(tell) == "<SemanticFunction tell(topic, style=…) -> joke, explanation>"


# -- definitions that are refused ------------------------------------------------------------------------------------


def test_a_placeholder_that_is_no_parameter_is_shown_in_its_line() -> None:
    def function(passage: Input, summary: Output) -> None:
        """Summarise.
        Passage: {{pasage}}
        Summary: {{summary}}"""

    assert _definition_error(function) == (
        "`{{pasage}}` is neither an input nor an output (line 2, column 10); "
        "did you mean `passage`? declared: `passage`, `summary`\n"
        "  2 | Passage: {{pasage}}\n"
        "    |          ^^^^^^^^^^"
    )


def test_a_parameter_that_is_not_in_the_template_is_named() -> None:
    def function(passage: Input, style: Input, summary: Output) -> None:
        """{{passage}} {{summary}}"""

    assert _definition_error(function).startswith("the input `style` is not in the template; write `{{style}}` where")


def test_a_function_without_output_is_refused() -> None:
    def function(passage: Input) -> None:
        """{{passage}}"""

    assert _definition_error(function).startswith("the template has no output")


def test_a_placeholder_name_with_illegal_characters_is_shown() -> None:
    def function(passage: Input, summary: Output) -> None:
        """{{the passage}} {{summary}}"""

    assert "the placeholder name 'the passage' is not allowed (line 1, column 1)" in _definition_error(function)


def test_a_parameter_name_with_other_letters_is_refused() -> None:
    def function(größe: Input, summary: Output) -> None:
        """x {{summary}}"""

    assert _definition_error(function).startswith("the name 'größe' cannot be a placeholder; use 1 to 64 of")


@pytest.mark.parametrize(
    ("annotation", "shown"),
    [(int, "int"), (bytes, "bytes"), (str | None, "str | None"), (list[int], "list"), (list, "list"), (Any, "Any")],
)
def test_an_annotation_that_is_no_text_is_refused(annotation: object, shown: str) -> None:
    def function(passage: Any, summary: Output) -> None:
        """{{passage}} {{summary}}"""

    function.__annotations__["passage"] = annotation
    assert _definition_error(function) == (
        f"parameter `passage` is annotated `{shown}`, which is neither text nor variable; "
        "annotate inputs as `Input` and outputs as `Output`"
    )


def test_a_missing_annotation_is_named() -> None:
    def function(passage, summary: Output) -> None:  # type: ignore[no-untyped-def]
        """{{passage}} {{summary}}"""

    assert _definition_error(function) == (
        "parameter `passage` has no annotation; annotate inputs as `Input` and outputs as `Output`"
    )


def test_a_method_is_told_that_it_cannot_be_one() -> None:
    class Service:
        def function(self, passage: Input, summary: Output) -> None:
            """{{passage}} {{summary}}"""

    assert "parameter `self` has no annotation (methods cannot be" in _definition_error(Service.function)


def test_an_annotation_that_cannot_be_resolved_says_which_name() -> None:
    def function(passage: Missing, summary: Output) -> None:  # type: ignore[name-defined]  # noqa: F821
        """{{passage}} {{summary}}"""

    assert "(name 'Missing' is not defined); import the names at the top" in _definition_error(function)


def test_parameters_are_named_one_by_one() -> None:
    def function(*passages: Input, summary: Output) -> None:
        """{{passages}} {{summary}}"""

    def other(summary: Output, **passages: Input) -> None:
        """{{passages}} {{summary}}"""

    assert "it has `*passages: 'Input'`; name every input and output" in _definition_error(function)
    assert "it has `**passages: 'Input'`; name every input and output" in _definition_error(other)


def test_a_function_without_docstring_has_no_template() -> None:
    def function(passage: Input, summary: Output) -> None: ...

    def blank(passage: Input, summary: Output) -> None:
        """ """

    assert _definition_error(function).startswith("it has no docstring; the docstring is the template")
    assert _definition_error(blank).startswith("it has no docstring")


def test_an_f_string_is_no_docstring() -> None:
    def function(passage: Input, summary: Output) -> None:
        f"""{passage} {{summary}}"""  # noqa: B021

    assert "(it has to be a plain string literal, not an f-string)" in _definition_error(function)


def test_a_body_with_code_would_never_run() -> None:
    def function(passage: Input, summary: Output) -> None:
        """{{passage}} {{summary}}"""
        print(passage)

    def returns(passage: Input, summary: Output) -> str:
        """{{passage}} {{summary}}"""
        return "text"

    for each in (function, returns):
        assert _definition_error(each) == (
            "its body has code, which would never run: the docstring is all of it; remove the code"
        )


def test_a_coroutine_is_refused() -> None:
    async def function(passage: Input, summary: Output) -> None:
        """{{passage}} {{summary}}"""

    assert _definition_error(function).startswith("it is a coroutine or a generator; write a plain `def`")


def test_only_functions_can_be_decorated() -> None:
    with pytest.raises(TemplateError, match="semantic function `Thing`: it is not a plain function"):
        semantic_function(type("Thing", (), {}))


def test_an_output_with_another_default_is_refused() -> None:
    def function(passage: Input, summary: Output = "short") -> None:  # type: ignore[assignment]
        """{{passage}} {{summary}}"""

    assert _definition_error(function).startswith("the output `summary` has a default that is no `Output(…)`; write")


def test_an_input_with_an_output_as_default_is_refused() -> None:
    def function(passage: Input = Output(), summary: Output = Output()) -> None:  # type: ignore[assignment]
        """{{passage}} {{summary}}"""

    assert "`passage` has an `Output(…)` but is annotated as an input" in _definition_error(function)


def test_a_default_that_is_no_text_is_refused() -> None:
    def function(passage: Input = 3, summary: Output = Output()) -> None:  # type: ignore[assignment]
        """{{passage}} {{summary}}"""

    assert _definition_error(function).startswith("the default of `passage` cannot be used: the value is of type int")


def test_optimised_python_without_docstrings_is_explained() -> None:
    code = (
        "from parrot_mq.program import Input, Output, semantic_function\n"
        "@semantic_function\n"
        "def function(passage: Input, summary: Output = Output()) -> None:\n"
        "    '''{{passage}} {{summary}}'''\n"
    )
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "its docstring, the template, is gone: python -OO (PYTHONOPTIMIZE=2) removes it; use -O" in done.stderr


# -- options ---------------------------------------------------------------------------------------------------------


def test_using_gives_a_copy_and_leaves_the_function_as_it_is() -> None:
    session = RecordingSession()
    copy = tell.using(model="large", timeout_s=5, names={"joke": "best"}, session=session)
    assert (copy.model, copy.timeout_s, copy.names, copy.session) == ("large", 5.0, {"joke": "best"}, session)
    assert (copy.name, copy.spec) == (tell.name, tell.spec)
    assert (tell.model, tell.timeout_s, tell.names, tell.session) == ("tiny", 60.0, {}, None)


def test_using_nothing_changes_nothing() -> None:
    copy = tell.using(model="large", names={"joke": "best"}).using()
    assert (copy.model, copy.timeout_s, copy.names) == ("large", 60.0, {"joke": "best"})


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), 7 * 86400 + 1, "5"])
def test_a_timeout_is_a_number_of_seconds_up_to_a_week(timeout_s: float) -> None:
    with pytest.raises(ConfigurationError, match="it is a number of seconds, above 0 and at most a week"):
        tell.using(timeout_s=timeout_s)


@pytest.mark.parametrize("model", ["m" * 257, "a\nb", "\ud800", 3])
def test_a_model_name_is_a_short_text(model: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be used: it is a printable text of at most 256 characters"):
        tell.using(model=model)


def test_the_name_on_the_server_is_a_token_of_a_subject() -> None:
    def größe(passage: Input, summary: Output) -> None:
        """{{passage}} {{summary}}"""

    with pytest.raises(InvalidName, match="function name 'größe' cannot be used: use 1 to 64 of the characters"):
        semantic_function(größe)
    with pytest.raises(InvalidName, match="function name 'my jokes' cannot be used"):
        semantic_function(name="my jokes")(größe)
    assert semantic_function(name="size")(größe).name == "size"


def test_a_variable_name_is_a_token_of_a_subject() -> None:
    with pytest.raises(InvalidName, match=r"variable name 'a\.b' cannot be used"):
        tell.using(names={"joke": "a.b"})


def test_only_outputs_have_names() -> None:
    with pytest.raises(CallError, match="has no output 'topic' to name; its outputs are joke, explanation"):
        tell.using(names={"topic": "a"})


def test_two_outputs_do_not_share_a_name() -> None:
    with pytest.raises(CallError, match="two outputs cannot share the variable name"):
        tell.using(names={"joke": "a", "explanation": "a"})
