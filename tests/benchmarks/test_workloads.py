"""The workload benchmark: its programs, its baselines, its clocks, and a short run of all of it."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.workloads import applications as apps
from benchmarks.workloads.__main__ import main
from benchmarks.workloads.baselines import CacheAware, RequestMaker, run_baseline
from benchmarks.workloads.functions import make_function
from benchmarks.workloads.hardware import A100_13B
from benchmarks.workloads.measure import NUM_SLOTS
from benchmarks.workloads.metrics import Generated, Job, summarise
from benchmarks.workloads.ours import run_ours
from benchmarks.workloads.programs import CHARS_PER_TOKEN, Call, Program, Read, Text, write_text
from benchmarks.workloads.report import read_json, write_json
from benchmarks.workloads.scenarios import FIGURES, Figure, Scenario
from benchmarks.workloads.svg import Series, draw_lines
from benchmarks.workloads.systems import SYSTEMS
from parrot_mq.testing import SimulatedRequest, SimulatedSegment, count_tokens

NUM_STEPS = 4


def _make_chain(num_steps: int = NUM_STEPS) -> Program:
    chunk_tokens = apps.REAL_CHUNK_TOKENS[1024]
    return apps.chain_summary("document", document_tokens=num_steps * chunk_tokens, chunk=1024, output_tokens=20)


def _run(system: str, *programs: Program, delay_s: float = 0.0, num_workers: int = 1) -> list[Job]:
    scenario = Scenario(x=0, runs=(programs,), hardware=A100_13B, num_workers=num_workers, cap_tokens=4096)
    run = run_baseline if SYSTEMS[system].mechanisms is None else run_ours
    return run(programs, scenario, SYSTEMS[system], delay_s=delay_s, num_slots=NUM_SLOTS)


# -- programs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("figure", FIGURES.values(), ids=list(FIGURES))
@pytest.mark.parametrize("is_quick", [False, True])
def test_every_point_names_each_program_once_and_ends_with_somebody(figure: Figure, is_quick: bool) -> None:
    """A run ends when those have ended that are not in the background."""
    for scenario in figure.scenarios(is_quick):
        for programs in scenario.runs:
            assert len({program.name for program in programs}) == len(programs)
            assert any(not program.is_background for program in programs)
            assert {kind for kind, _ in figure.metrics} <= {program.kind for program in programs}


def test_made_up_text_has_its_length_and_its_name() -> None:
    """The simulated workers count a token for every four characters."""
    texts = [Text("a", 100), Text("b", 100), Text("a", 101), Text("a", 1)]
    assert [count_tokens(write_text(text)) for text in texts] == [100, 100, 101, 1]
    assert len({write_text(text) for text in texts}) == len(texts)
    assert len(write_text(texts[0])) == 100 * CHARS_PER_TOKEN


def test_a_call_reads_earlier_calls_only() -> None:
    """What a program says in another order is a mistake of the benchmark."""
    with pytest.raises(AssertionError, match="no earlier call"):
        Program("p", "kind", (Call("a", (Read("b"),), 1), Call("b", (Text("t", 1),), 1)))


def test_multi_agent_prompts_are_as_long_as_in_the_log_whatever_the_number_of_files() -> None:
    """The artifact replays prompts of a fixed length, nearly all of it common to a round."""
    for num_files in (4, 8, 16):
        program = apps.multi_agent(num_files)
        by_round = {call.output.rpartition("-")[0]: program.num_prompt_tokens(call) for call in program.calls}
        assert by_round["code"] == 3_750
        assert by_round["review-0"] == 4_870
        assert by_round["revision-0"] == 5_500
        assert len(program.calls) == 1 + 9 * num_files


def test_constants_stand_in_the_template_and_texts_are_passed_in() -> None:
    """So prefixes can be shared where a real program can share them."""
    system, question = Text("system", 10), Text("question", 3, is_input=True)
    function, inputs = make_function(Call("out", (system, question), 5), {})
    assert function.spec.template.source == write_text(system) + "{{input_1}}{{output}}"
    assert inputs == {"input_1": write_text(question)}


# -- baselines ---------------------------------------------------------------------------------------------------------


def test_prompts_share_what_they_begin_with_and_nothing_behind_it() -> None:
    """Hashes are chained over contents, as ours are."""
    make = RequestMaker()
    program = Program(
        "p",
        "kind",
        (
            Call("a", (Text("common", 9), Text("x", 3), Text("end", 2)), 1),
            Call("b", (Text("common", 9), Text("y", 3), Text("end", 2)), 1),
        ),
    )
    first, second = (make(program, call).segments for call in program.calls)
    assert first[0] == second[0]
    assert {one.hash for one in first[1:]}.isdisjoint(one.hash for one in second[1:])


def test_a_capped_baseline_cuts_prompts_that_do_not_fit() -> None:
    """As the paper's does: 100 tokens before they would not."""
    program = Program("p", "kind", (Call("a", (Text("long", 5_000),), 50),))
    assert RequestMaker(cap_tokens=4_096)(program, program.calls[0]).num_prompt_tokens == 4_096 - 50 - 100


def test_the_cache_aware_router_goes_where_the_prefix_is_unless_the_queue_there_is_much_longer() -> None:
    """Its two rules."""
    route = CacheAware(2)
    request = SimulatedRequest(key="a", segments=(SimulatedSegment("h", 10),), num_output_tokens=1)
    assert route(request, [0, 0]) == 0
    assert route(request, [CacheAware.MAX_DIFFERENCE, 0]) == 0
    assert route(request, [CacheAware.MAX_DIFFERENCE + 1, 0]) == 1


def test_a_client_in_the_loop_pays_the_network_at_every_step() -> None:
    """A chain of n requests takes n round trips longer."""
    (near,), (far,) = _run("a", _make_chain()), _run("a", _make_chain(), delay_s=0.5)
    assert far.duration_s == pytest.approx(near.duration_s + NUM_STEPS * 0.5)


# -- ours --------------------------------------------------------------------------------------------------------------


def test_ours_pays_the_network_once() -> None:
    """The program is sent as a whole, and the last value comes back."""
    (near,), (far,) = _run("ours", _make_chain()), _run("ours", _make_chain(), delay_s=0.5)
    assert far.duration_s == pytest.approx(near.duration_s + 0.5, rel=0.01)


def test_without_a_network_and_a_rival_a_chain_takes_as_long_with_ours_as_with_a_client() -> None:
    """The same engine, the same steps: what differs elsewhere is not in the measuring."""
    (ours,), (theirs,) = _run("ours", _make_chain()), _run("a", _make_chain())
    assert ours.duration_s == pytest.approx(theirs.duration_s, rel=0.02)


def test_a_run_is_the_same_every_time() -> None:
    """Everything that is left to chance follows from seeds."""
    programs = apps.gpts(4.0, num_requests=10, seed=3)
    runs = [_run("ours", *programs, delay_s=0.01, num_workers=2) for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(runs[0]) == len(programs)


def test_what_waits_for_others_is_computed_ahead_and_only_then() -> None:
    """In a chain whose prompts have the new text first there is something to compute; it is told in the events."""
    chain = apps.chain_summary("d", document_tokens=1_500, chunk=1024, output_tokens=20, is_text_first=True)
    (ours,), (without,) = _run("ours", chain), _run("no-prefill_ahead", chain)
    assert ours.duration_s < without.duration_s


def test_without_objectives_chats_are_slowed_down_by_batches() -> None:
    """The switch reaches the engine: tokens come in time only if somebody says that they should."""
    batch = apps.map_reduce_summary("d", document_tokens=28_000, chunk=1024, output_tokens=50, arrival_s=1.0)
    programs = (*apps.chats(4, rate=1.0, seed=0), batch)
    tpot_ms = {name: summarise([_run(name, *programs)])["chat"].tpot_ms for name in ("ours", "no-objectives")}
    assert tpot_ms["ours"] < apps.CHAT_TPOT_MS
    assert tpot_ms["ours"] < 0.8 * tpot_ms["no-objectives"]


# -- results -----------------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_the_paper() -> None:
    """Means over jobs, the makespan over a run, time per token without the first one."""
    jobs = [
        Job("chat", 10, arrived_s=0.0, ended_s=1.0, generated=(Generated(11, 0.0, 1.0),)),
        Job("chat", 20, arrived_s=1.0, ended_s=5.0, generated=(Generated(21, 1.0, 5.0),)),
    ]
    metrics = summarise([jobs])["chat"]
    assert metrics.jct_s == 2.5
    assert metrics.jct_p99_s == 4.0
    assert metrics.makespan_s == 5.0
    assert metrics.normalized_ms == pytest.approx((100 + 200) / 2)
    assert metrics.tpot_ms == pytest.approx((100 + 200) / 2)


@pytest.mark.parametrize("is_log", [False, True])
def test_plots_are_well_formed(is_log: bool) -> None:
    """One line and one legend for each series; names are escaped."""
    lines = [Series("a & b", [(1, 2.0), (2, 300.0)]), Series("one point", [(1, 5.0)])]
    root = ElementTree.fromstring(draw_lines("title <1>", "x", "y", lines, is_log=is_log))
    assert len(root.findall("{*}polyline")) == len(lines)
    assert "a & b" in {text.text for text in root.findall("{*}text")}


@pytest.mark.timeout(180)  # some 10 s on a machine that has nothing else to do
def test_a_quick_run_measures_every_figure_and_writes_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `python -m benchmarks.workloads --quick --output FOLDER`."""
    main(["--quick", "--processes", "1", "--output", str(tmp_path)])
    assert "## What each mechanism is worth" in capsys.readouterr().out
    for name, figure in FIGURES.items():
        document = json.loads((tmp_path / f"{name}.json").read_text())
        results = read_json(document)
        assert write_json(results) == document
        assert set(results.systems) == set(SYSTEMS)
        assert results.xs == [scenario.x for scenario in figure.scenarios(True)]
        for x in results.xs:
            ratio = results.ratio("a", x, results.delays_ms[-1])
            assert ratio is not None
            assert ratio > 1.0, f"a client that sends one request at a time is faster in {name}"
        ElementTree.fromstring((tmp_path / f"{name}.svg").read_text())
    assert (tmp_path / "README.md").exists()
