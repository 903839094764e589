"""Every example prints, on the tiny model, what plain Python predicts, and what its README shows."""

from __future__ import annotations

import inspect
import itertools
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parrot_mq.bus import BusConfig, open_bus
from tests.coordinator.service import eventually
from tests.examples.service import EXAMPLES, ROOT, RUN_TIMEOUT_S, Service, running_service
from tests.interop.node import script_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

README = (EXAMPLES / "README.md").read_text()
SHOWN = {
    match[1].split()[-1].partition(":")[0]: (match[1], match[2])
    for match in re.finditer(r"```console\n(?:\$ .+\n)*\$ (.+)\n((?:[^$\n].*\n)+)```", README)
}
"""What the README shows: the last command of a block and the output, by the file that the command names."""
PROGRAMS = sorted(
    path for kind in ("*.py", "*.mjs") for path in EXAMPLES.rglob(kind) if "node_modules" not in path.parts
)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """nats-server, coordinator and a worker with the tiny model."""
    with running_service() as running:
        yield running


def _load(name: str) -> dict[str, Any]:
    """What an example defines."""
    return runpy.run_path(str(EXAMPLES / name))


def _fields(record: str) -> dict[str, str]:
    """The fields of a record, without a model."""
    return {name: value for name, _, value in (line.partition(": ") for line in record.splitlines()) if value}


def _shown(service: Service, name: str) -> str:
    """What an example prints when it is run as the README says; the README shows just that."""
    command, output = SHOWN[f"examples/{name}"]
    assert service.run(command) == output
    return output


# -- what they print -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_other", [False, True], ids=["our diary", "another diary"])
def test_chain_summary(service: Service, tmp_path: Path, is_other: bool) -> None:
    diary = (EXAMPLES / "diary.txt").read_text()
    if is_other:
        diary = "\n\n".join(reversed(diary.strip().split("\n\n")[2:]))
        (tmp_path / "other.txt").write_text(diary)
        printed = service.run(f"python examples/chain_summary.py {tmp_path / 'other.txt'}")
    else:
        printed = _shown(service, "chain_summary.py")
    digests = itertools.accumulate((int(_fields(day)["altitude"]) for day in diary.split("\n\n")), max)
    expected = [f"day {number}: highest camp so far at {digest} m" for number, digest in enumerate(digests, start=1)]
    assert printed.splitlines() == expected


@pytest.mark.parametrize("ordered", ["", "map", "stove map tent boots rope"], ids=lambda text: f"{len(text.split())}")
def test_map_reduce(service: Service, ordered: str) -> None:
    if ordered:
        printed = service.run(f"python examples/map_reduce.py {ordered}")
    else:
        ordered, printed = "rope tent boots lamp", _shown(service, "map_reduce.py")
    store = _fields(_load("map_reduce.py")["STORE"])
    places = " ".join(store[article] for article in ordered.split())
    assert printed.splitlines() == [f"articles: {ordered}", f"places: {places}", f"route: {places.upper()}"]


def test_chat(service: Service) -> None:
    """Each user gets right answers, and what all prompts begin with is computed once."""
    chat = _load("chat.py")
    system = inspect.cleandoc(chat["reply"].__doc__).partition("{{")[0]
    known = _fields(system)
    prompts, texts, expected = [], [], []
    for user, fields in chat["USERS"].items():
        talk = ""
        for field in fields:
            prompts.append(f"{system}{talk}Question: What is the {field}?\nAnswer: ")
            talk += f"Question: What is the {field}?\nAnswer: {known[field]}\n"
        texts.append(system + talk.removesuffix("\n"))
        expected += [f"-- {user}", *talk.splitlines()]
    command, shown = SHOWN["examples/chat.py"]
    *lines, costs = service.run(command).splitlines()
    assert lines == expected == shown.splitlines()[:-1]
    num_tokens, num_prompts, num_computed = map(int, re.findall(r"\d+", costs))
    assert (num_tokens, num_prompts) == (sum(map(len, prompts)), len(prompts))
    num_different = len({text[:end] for text in texts for end in range(1, len(text) + 1)})
    num_generated = sum(len(known[field]) for fields in chat["USERS"].values() for field in fields)
    most = num_different - num_generated + len(prompts)  # the last token of a prompt may be read anew
    assert len(system) <= num_computed <= most  # a second time it would be more


@pytest.mark.parametrize("max_rounds", [5, 2])
def test_review_rounds(service: Service, max_rounds: int) -> None:
    if max_rounds == 5:
        printed = _shown(service, "review_rounds.py")
    else:
        printed = service.run(f"python examples/review_rounds.py {max_rounds}")
    agents = _load("review_rounds.py")
    module, design = _fields(agents["LAST_RELEASE"]), _fields(agents["DESIGN"])
    expected = []
    for number in range(1, max_rounds + 1):
        wrong = [name for name in module if module[name] != design[name]]
        expected.append(f"# round {number}: {f'{wrong[0]} is wrong' if wrong else 'approved'}")
        if not wrong:
            break
        module[wrong[0]] = design[wrong[0]]
    assert printed.splitlines() == expected + [f"{name.upper()} = {value}" for name, value in module.items()]
    constants: dict[str, object] = {}
    exec(printed, constants)  # what they wrote is a module
    assert constants["RETRIES"] == int(module["retries"])


@pytest.mark.parametrize("mountain", ["Elbrus", "Aconcagua"])
def test_retrieval(service: Service, mountain: str) -> None:
    """The second search is for what the model has read."""
    if mountain == "Elbrus":
        printed = _shown(service, "retrieval.py")
        assert "search" in service.run("parrot-mq native --check examples/retrieval.py")
    else:
        printed = service.run(f"python examples/retrieval.py {mountain}")
    documents = [_fields(document) for document in _load("retrieval.py")["DOCUMENTS"]]
    (country,) = (each["country"] for each in documents if each.get("mountain") == mountain)
    (capital,) = (each["capital"] for each in documents if each["country"] == country and "capital" in each)
    assert printed == f"{mountain} is in {country}, and the capital there is {capital}\n"


def test_tool_choice(service: Service) -> None:
    """Whichever tool the rules name is the one that runs, in the host's process."""
    tools = _load("tool_choice.py")
    with service.started("parrot-mq native examples/tool_choice.py"):
        printed = {("tent", "1200"): _shown(service, "tool_choice.py")}
        for product, price in (("lamp", "310"), ("rope", "240")):
            printed[product, price] = service.run(f"python examples/tool_choice.py {product} {price}")
    for (product, price), line in printed.items():
        tool = _fields(tools["RULES"])[product]
        assert line == f"{tool}: {tools[tool].function(price)}\n"
    assert len({line.partition(":")[0] for line in printed.values()}) == 3


async def test_ticket_triage(service: Service) -> None:
    """The publisher makes the streams and waits; then the pipeline comes."""
    command, shown = SHOWN["examples/ticket_triage/triage.py"]
    with service.started("python examples/ticket_triage/publisher.py") as publisher:
        async with open_bus(BusConfig(servers=(service.url,))) as bus:

            async def is_published() -> bool:
                reply = await bus.request("$JS.API.STREAM.INFO.TICKETS", b"", timeout_s=5)
                return b'"error"' not in reply.payload

            await eventually(is_published, within_s=RUN_TIMEOUT_S)
        with service.started(command):
            printed, errors = publisher.communicate()
    assert publisher.returncode == 0, errors
    assert printed == shown
    for ticket, line in zip(_load("ticket_triage/publisher.py")["TICKETS"], printed.splitlines(), strict=True):
        fields = _fields(ticket["text"])
        is_urgent = int(fields["loss"]) > ticket["limit"]
        expected = (
            f"{ticket['id']}: {fields['product'].upper()}, loss {fields['loss']}{', urgent' if is_urgent else ''}"
        )
        assert line == expected


@pytest.mark.node
def test_node_producer(service: Service) -> None:
    """A text typed as it is generated, and the same text as a value."""
    with script_folder(EXAMPLES / "node") as folder:
        printed = service.run(f"node {folder / 'producer.mjs'}")
    record = _fields(json.loads(re.findall(r'RECORD = (".+")', (EXAMPLES / "node/producer.mjs").read_text())[0]))
    label = f"{record['name'].upper()} {record['height']}"
    assert printed == f"{label}\nlabel: {label}\n" == SHOWN["examples/node/producer.mjs"][1]


# -- what they are ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_a_person_writes_little(program: Path) -> None:
    lines = program.read_text().splitlines()
    assert len(lines) < 60
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_the_readme_has_each(program: Path) -> None:
    links = re.findall(r"^\| \[[^]]+\]\(([^)]+)\) \|", README, re.MULTILINE)
    path = program.relative_to(EXAMPLES)
    assert str(path) in links or any((EXAMPLES / link).is_dir() and path.is_relative_to(link) for link in links)


def test_the_commands_that_they_name_are_there() -> None:
    for program in PROGRAMS:
        for path in re.findall(r"examples/[\w./-]+\w", program.read_text()):
            assert (ROOT / path).exists(), f"{program}: {path}"


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (EXAMPLES / target).exists(), target
