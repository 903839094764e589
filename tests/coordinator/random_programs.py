"""Random programs, and what plain Python says that each of their variables may end as."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from parrot_mq.errors import InputFailed, ParrotError
from parrot_mq.messages import InputValue, PromptTask
from tests.coordinator.programs import ref, task
from tests.coordinator.service import expected

__all__ = ["RandomProgram", "describe"]

VALUE = "value"
FAILED = "engine_failure"
CANCELLED = "task_cancelled"


def describe(outcome: str | ParrotError) -> str:
    """How a variable ended: `value`, or the code of its error, behind which stands the code of the first cause."""
    if isinstance(outcome, str):
        return VALUE
    return f"{outcome.code}: {outcome.facts['cause_code']}" if isinstance(outcome, InputFailed) else outcome.code


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
    tasks: dict[str, PromptTask] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)
    _fails: set[str] = field(default_factory=set)

    @classmethod
    def make(cls, rng: random.Random) -> RandomProgram:
        """A program of some 35 tasks with one to three outputs."""
        program = cls()
        for number in range(rng.randint(1, 4)):
            program.inputs[f"in{number}"] = f"text {number}"
        program.texts.update(program.inputs)
        for number in range(rng.randint(20, 50)):
            program._add_task(f"t{number}", rng)
        program.cancelled = {name for name in program._outputs() if rng.random() < 0.04}
        return program

    def _add_task(self, name: str, rng: random.Random) -> None:
        known = list(self.texts)
        reads = rng.sample(known, min(len(known), rng.choice([0, 1, 1, 2, 2, 3, 6])))
        template, prompt = f"{name}: {{{{all}}}}", f"{name}: {'; '.join(self.texts[read] for read in reads)}"
        writes = {}
        for output in range(rng.choice([1, 1, 1, 2, 3])):
            is_failing = rng.random() < 0.04
            text = f" {'FAIL' if is_failing else 'ok'} {output}: "
            variable = f"{name}-{output}"
            template, prompt = f"{template}{text}{{{{o{output}}}}}", prompt + text
            writes[f"o{output}"] = variable
            self.texts[variable] = expected(prompt)
            prompt += self.texts[variable]
            if is_failing:
                self._fails.add(variable)
        items: InputValue = [ref(read) for read in reads]
        self.tasks[name] = task(template, writes=writes, reads={"all": items}, separators={"all": "; "})

    def _outputs(self) -> list[str]:
        return [output.variable for record in self.tasks.values() for output in record.outputs.values()]

    def possible_outcomes(self) -> Mapping[str, set[str]]:
        """For every variable that a task writes: how it may end, in the words of `describe`."""
        outcomes: dict[str, set[str]] = {name: {VALUE} for name in self.inputs}
        for record in self.tasks.values():
            items = record.inputs["all"]
            reads = [item.variable for item in items if not isinstance(item, str)] if isinstance(items, list) else []
            variables = [output.variable for output in record.outputs.values()]
            is_cancelled = not self.cancelled.isdisjoint(variables)
            for index, variable in enumerate(variables):
                outcomes[variable] = self._outcomes(variable, [*reads, *variables[:index]], outcomes)
                if is_cancelled:
                    outcomes[variable].add(CANCELLED)
        return {variable: outcomes[variable] for variable in self._outputs()}

    def _outcomes(self, variable: str, reads: list[str], known: Mapping[str, set[str]]) -> set[str]:
        outcomes = {
            f"input_failed: {outcome.removeprefix('input_failed: ')}"
            for read in reads
            for outcome in known[read]
            if outcome != VALUE
        }
        if all(VALUE in known[read] for read in reads):
            outcomes.add(FAILED if variable in self._fails else VALUE)
        return outcomes
