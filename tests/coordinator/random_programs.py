"""Random programs, and what plain Python says that each of their variables may end as."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from parrot_mq.errors import InputFailed, ParrotError
from parrot_mq.messages import InputValue, NativeTask, OutputSpec, PromptTask, ResultSpec, TaskRecord, VariableRef
from parrot_mq.program.transforms import Regex, Strip, Transform, apply_transforms, encode_list, makes_list
from parrot_mq.types import Sampling
from tests.coordinator.service import expected

__all__ = ["FUNCTIONS", "RandomProgram", "answer_of", "describe"]

VALUE = "value"
CANCELLED = "task_cancelled"
FUNCTIONS = ("good", "bad", "flaky")
"""`good` answers, `bad` fails for good, `flaky` fails now and then in a way that another attempt may not."""

_SAMPLING = Sampling(max_tokens=10_000)
_LIST: list[Transform] = [Regex(pattern="[0-9a-f]{4}", every=True)]
"""A list of four items of every text that is generated."""
_TEXT: list[Transform] = [Strip(characters="0123")]


def describe(outcome: str | ParrotError) -> str:
    """How a variable ended: `value`, or the code of its error, behind which stands the code of the first cause."""
    if isinstance(outcome, str):
        return VALUE
    return f"{outcome.code}: {outcome.facts['cause_code']}" if isinstance(outcome, InputFailed) else outcome.code


def answer_of(function: str, arguments: Mapping[str, str], outputs: list[str]) -> str:
    """What every host of these tests answers: the value of the one output, or an object with all of them."""
    given = json.dumps([function, sorted(arguments.items())])
    found = {output: expected(f"{output} of {given}") for output in outputs}
    return json.dumps(found) if len(outputs) > 1 else found[outputs[0]]


@dataclass(slots=True)
class RandomProgram:
    """Tasks over a graph without cycles; later ones read what earlier ones write.

    Attributes:
        inputs: Variables that the program sets itself.
        tasks: What is submitted, by name.
        cancelled: Variables that are cancelled at some time, which may be too late.
        texts: What every variable holds if nothing goes wrong with it.
    """

    inputs: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)
    _fails: dict[str, str] = field(default_factory=dict)
    """Outputs that fail by themselves, and how."""
    _reads: dict[str, list[str]] = field(default_factory=dict)
    """What each output waits for, of its own task, too."""
    _lists: list[str] = field(default_factory=list)

    @classmethod
    def make(cls, rng: random.Random) -> RandomProgram:
        """A program of some 35 tasks with one to three outputs."""
        program = cls()
        for number in range(rng.randint(1, 4)):
            program.inputs[f"in{number}"] = f"text {number}"
        program.texts.update(program.inputs)
        for number in range(rng.randint(20, 50)):
            name, is_map = f"t{number}", bool(program._lists) and rng.random() < 0.15
            add = rng.choices(
                [program._add_map, program._add_native, program._add_prompt], [is_map, 0.3, 0.7 - 0.5 * is_map]
            )[0]
            add(name, rng)
        program.cancelled = {name for name in program._outputs() if rng.random() < 0.04}
        return program

    def _choose_reads(self, rng: random.Random) -> list[str]:
        known = list(self.texts)
        return rng.sample(known, min(len(known), rng.choice([0, 1, 1, 2, 2, 3, 6])))

    # -- tasks -------------------------------------------------------------------------------------------------------

    def _add_prompt(self, name: str, rng: random.Random) -> None:
        reads = self._choose_reads(rng)
        refs, joined = self._refer(reads, rng)
        template, prompt = f"{name}: {{{{all}}}}", f"{name}: {joined}"
        outputs = {}
        for index in range(rng.choice([1, 1, 1, 2, 3])):
            is_failing = rng.random() < 0.04
            text = f" {'FAIL' if is_failing else 'ok'} {index}: "
            variable, transforms = f"{name}-o{index}", rng.choice([[], [], [], _TEXT, _LIST])
            template, prompt = f"{template}{text}{{{{o{index}}}}}", prompt + text
            outputs[f"o{index}"] = OutputSpec(variable=variable, sampling=_SAMPLING, transforms=transforms)
            raw = expected(prompt)
            prompt += raw
            self._keep(variable, raw, transforms, [*reads, *(f"{name}-o{before}" for before in range(index))])
            if is_failing:
                self._fails[variable] = "engine_failure"
        self.tasks[name] = PromptTask(
            template=template, inputs={"all": refs}, outputs=outputs, separators={"all": "; "}
        )

    def _add_native(self, name: str, rng: random.Random) -> None:
        reads, function = self._choose_reads(rng), rng.choices(FUNCTIONS, [10, 1, 5])[0]
        inputs: dict[str, InputValue] = {f"a{index}": VariableRef(read) for index, read in enumerate(reads)}
        arguments = {f"a{index}": self.texts[read] for index, read in enumerate(reads)}
        outputs = [f"o{index}" for index in range(rng.choice([1, 1, 2]))]
        answer = answer_of(function, arguments, outputs)
        found = json.loads(answer) if len(outputs) > 1 else {outputs[0]: answer}
        specs = {}
        for output in outputs:
            variable, transforms = f"{name}-{output}", rng.choice([[], [], _LIST])
            specs[output] = ResultSpec(variable=variable, transforms=transforms)
            self._keep(variable, found[output], transforms, reads)
            if function == "bad":
                self._fails[variable] = "function_failed"
        self.tasks[name] = self._call(function, inputs, specs)

    def _add_map(self, name: str, rng: random.Random) -> None:
        """Something is done with each item of a list."""
        source, variable, shared = rng.choice(self._lists), f"{name}-o", rng.choice(list(self.texts))
        inputs: dict[str, InputValue] = {"item": VariableRef(source), "shared": VariableRef(shared)}
        items = json.loads(self.texts[source])
        if rng.random() < 0.5:
            output = OutputSpec(variable=variable, sampling=_SAMPLING)
            template = f"{name}: {{{{item}}}} {{{{shared}}}} {{{{o}}}}"
            made = [expected(f"{name}: {item} {self.texts[shared]} ") for item in items]
            self.tasks[name] = PromptTask(template=template, inputs=inputs, outputs={"o": output}, each=["item"])
        else:
            self.tasks[name] = self._call("flaky", inputs, {"o": ResultSpec(variable=variable)}, each=["item"])
            made = [answer_of("flaky", {"item": item, "shared": self.texts[shared]}, ["o"]) for item in items]
        self._keep(variable, encode_list(made), [], [source, shared])
        self._lists.append(variable)

    @staticmethod
    def _call(
        function: str, inputs: dict[str, InputValue], outputs: dict[str, ResultSpec], each: list[str] | None = None
    ) -> NativeTask:
        """Messages may be lost, so an attempt takes not long, and there are many."""
        return NativeTask(
            function=function,
            inputs=inputs,
            outputs=outputs,
            each=each or [],
            attempt_timeout_s=0.5,
            max_attempts=100,
        )

    def _refer(self, reads: list[str], rng: random.Random) -> tuple[list[str | VariableRef], str]:
        """Some lists are read item by item. Returns: what stands in the input, and what comes of it."""
        refs: list[str | VariableRef] = []
        texts: list[str] = []
        for read in reads:
            is_spread = read in self._lists and rng.random() < 0.5
            refs.append(VariableRef(read, items=is_spread))
            texts += json.loads(self.texts[read]) if is_spread else [self.texts[read]]
        return refs, "; ".join(texts)

    def _keep(self, variable: str, raw: str, transforms: list[Transform], reads: list[str]) -> None:
        value = apply_transforms(transforms, raw)
        self.texts[variable] = value if isinstance(value, str) else encode_list(value)
        self._reads[variable] = reads
        if makes_list(transforms):
            self._lists.append(variable)

    # -- outcomes ----------------------------------------------------------------------------------------------------

    def _outputs(self) -> list[str]:
        return [output.variable for record in self.tasks.values() for output in record.outputs.values()]

    def possible_outcomes(self) -> Mapping[str, set[str]]:
        """For every variable that a task writes: how it may end, in the words of `describe`."""
        outcomes: dict[str, set[str]] = {name: {VALUE} for name in self.inputs}
        for record in self.tasks.values():
            variables = [output.variable for output in record.outputs.values()]
            is_cancelled = not self.cancelled.isdisjoint(variables)
            for variable in variables:
                outcomes[variable] = self._outcomes(variable, outcomes)
                if is_cancelled:
                    outcomes[variable].add(CANCELLED)
                    if record.each:  # its list may hear of its items first
                        outcomes[variable].add(f"input_failed: {CANCELLED}")
        return {variable: outcomes[variable] for variable in self._outputs()}

    def _outcomes(self, variable: str, known: Mapping[str, set[str]]) -> set[str]:
        reads = self._reads[variable]
        outcomes = {
            f"input_failed: {outcome.removeprefix('input_failed: ')}"
            for read in reads
            for outcome in known[read]
            if outcome != VALUE
        }
        if all(VALUE in known[read] for read in reads):
            outcomes.add(self._fails.get(variable, VALUE))
        return outcomes
