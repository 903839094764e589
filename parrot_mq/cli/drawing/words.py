"""What happened, in words: of one output, of a session, of the critical path. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from parrot_mq.cli.drawing.stages import kind_of, short_group
from parrot_mq.cli.drawing.style import MARKS
from parrot_mq.cli.drawing.times import Phases, measure_phases, session_interval, show_seconds
from parrot_mq.messages import LostAttempt, SessionStory, TaskStory, Usage

__all__ = ["DECISIONS", "describe_path", "describe_session", "explain_output"]

DECISIONS = {
    "": "",
    "holder": "holds its prefix",
    "group": "runs the rest of its group",
    "replica": "the holders were full",
    "session": "ran the session before",
    "least_harm": "least harm there",
    "continued": "goes on with it",
}
"""Why a worker was chosen, in a few words."""

_BECAUSE = {
    "holder": "because it holds the beginning of the prompt already",
    "group": "because the rest of its node group runs there",
    "replica": "because the workers that hold the beginning of the prompt were full",
    "session": "because the session's last generation ran there",
    "least_harm": "because it does least harm to what runs there",
    "continued": "to go on with what another worker began",
}
MAX_STEPS = 12
NUM_ENDS = 4
"""Of a longer path so many steps are named at its beginning, and at its end."""


def describe_session(session: SessionStory) -> str:
    """One line: how much there is, how far it is, how long it took, what was shared."""
    stories = session.stories
    states: Counter[str] = Counter(story.state for story in stories)
    parts = [f"{len(stories):,} output{'s' if len(stories) != 1 else ''}"]
    if session.num_forgotten:
        parts[0] += f" (and {session.num_forgotten:,} older ones that are forgotten)"
    parts += [f"{states[state]:,} {words}" for state, (_, words) in MARKS.items() if states[state]]
    span = session_interval(stories, session.at)
    if span is not None:
        parts.append(show_seconds(span.duration_s))
    usages = [story.usage for story in stories if story.usage is not None]
    if num_prompt := sum(usage.num_prompt_tokens for usage in usages):
        num_shared = sum(usage.num_shared_tokens for usage in usages)
        parts.append(f"{num_prompt:,} prompt tokens, {num_shared / num_prompt:.0%} shared")
    if num_output := sum(usage.num_output_tokens for usage in usages):
        parts.append(f"{num_output:,} generated")
    return " · ".join(parts)


def describe_path(path: Sequence[TaskStory]) -> str:
    """The chain of outputs, and where its time went."""
    names = [story.variable for story in path]
    if len(names) > MAX_STEPS:
        names = [*names[:NUM_ENDS], f"… {len(names) - 2 * NUM_ENDS:,} more …", *names[-NUM_ENDS:]]
    times = [measure_phases(story, story.finished_at) for story in path]
    queued = sum(each.queue.duration_s for each in times if each.queue is not None)
    ran = sum(_run_s(each) for each in times)
    begin = times[0].whole.begin if times and times[0].whole is not None else path[-1].finished_at
    whole = path[-1].finished_at - begin
    between = sum(
        max(after.submitted_at - before.finished_at, 0.0) for before, after in pairwise(path) if after.submitted_at
    )
    parts = [f"{show_seconds(queued)} waiting for a worker", f"{show_seconds(ran)} on workers"]
    if between > 0.05 * whole:
        parts.append(f"{show_seconds(between)} in the program between tasks")
    return f"{show_seconds(whole)}, of that {', '.join(parts)}: {' → '.join(names)}"


# -- one output ------------------------------------------------------------------------------------------------------


def explain_output(story: TaskStory, now: float) -> list[str]:
    """Sentences about one output: why it waited, why this worker, what was shared, what went wrong."""
    phases = measure_phases(story, now)
    sentences = [
        _tell_class(story),
        _tell_inputs(story, phases),
        _tell_prefill(story),
        *(_tell_lost(attempt) for attempt in story.lost),
        _tell_queue(story, phases),
        _tell_worker(story),
        _tell_continued(story),
        _tell_run(story, phases),
        _tell_usage(story.usage) if story.usage is not None else "",
        _tell_end(story),
    ]
    return [sentence for sentence in sentences if sentence]


def _tell_class(story: TaskStory) -> str:
    if story.objective is None:
        return ""
    objective = story.objective
    targets = [
        f"first token within {objective.ttft_ms:g} ms" if objective.ttft_ms is not None else "",
        f"{objective.tpot_ms:g} ms per further token" if objective.tpot_ms is not None else "",
        f"of use for {show_seconds(objective.deadline_s)}" if objective.deadline_s is not None else "",
    ]
    wanted = "soon (latency)" if kind_of(story) == "latency" else "in the end (throughput)"
    text = "; ".join([f"It is wanted {wanted}", *filter(None, targets)])
    if story.group:
        text += f", and judged together with its node group {short_group(story.group)}"
    return f"{text}."


def _tell_inputs(story: TaskStory, phases: Phases) -> str:
    if phases.inputs is None or not story.reads:
        return ""
    took = show_seconds(phases.inputs.duration_s)
    if story.state == "waiting":
        return f"It has waited {took} for what it reads: {_list(story.reads)}."
    if not story.ready_at:
        return ""
    if not story.last_input:
        return f"All that it reads was there when it was submitted: {_list(story.reads)}."
    return f"It waited {took} for what it reads; {story.last_input} came last."


def _tell_prefill(story: TaskStory) -> str:
    if not story.prefilled_on:
        return ""
    same = ", where it ran then" if story.prefilled_on == story.worker else ""
    return f"Meanwhile {story.prefilled_on} was told to read the known beginning of its prompt ahead{same}."


def _tell_lost(attempt: LostAttempt) -> str:
    stay = ""
    if attempt.assigned_at and attempt.returned_at:
        stay = f" after {show_seconds(max(attempt.returned_at - attempt.assigned_at, 0.0))}"
    where = f" on {attempt.worker}" if attempt.worker else ""
    if not attempt.returned_at:
        return f"An attempt{where} led to nothing."
    reason = f": {attempt.reason.rstrip('.')}" if attempt.reason else ""
    return f"It was{where} and came back{stay}{reason}." if where else f"An attempt came back{stay}{reason}."


def _tell_queue(story: TaskStory, phases: Phases) -> str:
    if phases.queue is None or story.lost:
        return ""
    took = show_seconds(phases.queue.duration_s)
    if story.state == "ready":
        return f"All it needs is there; it has waited {took} for a worker with room."
    return f"It waited {took} for a worker." if story.assigned_at else ""


def _tell_worker(story: TaskStory) -> str:
    if not story.worker:
        return "It is in the queue again." if story.lost and story.state == "ready" else ""
    text = f"It went to {story.worker}"
    if story.batch_size > 1:
        text += f" in a batch of {story.batch_size:,}"
    if reason := story.reason.rstrip("."):
        return f"{text}: {reason}."
    because = _BECAUSE.get(story.decision)
    return f"{text}, {because}." if because else f"{text}."


def _tell_continued(story: TaskStory) -> str:
    if not story.num_continued_tokens:
        return ""
    return f"It went on after the {_count(story.num_continued_tokens, 'token')} that an earlier attempt had written."


def _tell_run(story: TaskStory, phases: Phases) -> str:
    if phases.prompt is None and phases.output is None:
        return ""
    if story.state in ("assigned", "running"):
        return f"It has been there for {show_seconds(_run_s(phases))}."
    if not story.worker or story.state != "finished":
        return ""
    if phases.output is None or phases.prompt is None or story.usage is None:
        return f"It took {show_seconds(_run_s(phases))} there."
    first, rest = show_seconds(phases.prompt.duration_s), show_seconds(phases.output.duration_s)
    return f"It took {first} there until its prompt was read, and {rest} from then on."


def _tell_usage(usage: Usage) -> str:
    if not usage.num_prompt_tokens:
        return ""
    text = f"Of {_count(usage.num_prompt_tokens, 'prompt token')} {usage.num_shared_tokens:,} were shared"
    if usage.num_prefilled_tokens:
        text += f", {usage.num_prefilled_tokens:,} of these computed ahead for it"
    text += f"; {max(usage.num_prompt_tokens - usage.num_shared_tokens, 0):,} had to be computed"
    return f"{text}; {usage.num_output_tokens:,} generated." if usage.num_output_tokens else f"{text}."


def _tell_end(story: TaskStory) -> str:
    if story.error is not None:
        return f"It failed: {story.error.message.rstrip('.')} ({story.error.code})."
    if story.state == "failed":
        return "It failed."
    if story.state == "finished" and not story.worker:
        return "Who ran it did not say so." if story.assigned_at else "Somebody else than a worker set it."
    if story.attempts > 1 and story.state == "finished":
        return f"It took {story.attempts} attempts."
    return ""


def _run_s(phases: Phases) -> float:
    return sum(each.duration_s for each in (phases.prompt, phases.output) if each is not None)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _list(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
