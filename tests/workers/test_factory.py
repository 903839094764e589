"""From settings to answers: the engine that a worker makes, in the thread that a worker runs it in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from parrot_workers.bridge import EngineThread
from parrot_workers.config import WorkerConfig
from parrot_workers.engine import EngineEvent, Finished, create_engine
from parrot_workers.models import load_model
from parrot_workers.tiny_model import checkpoint_path

from parrot_mq.errors import CheckpointError
from tests.workers.checkpoints import load_plain
from tests.workers.driving import check_story, ends, make_request, run


async def test_settings_become_an_engine_in_a_thread(checkpoint: Callable[[str], Path]) -> None:
    config = WorkerConfig(
        model_path=checkpoint("llama"), num_slots=3, max_context_tokens=100, device="cpu", num_threads=1
    )
    requests = [make_request(f"r{i}", f"question {i}", max_tokens=6) for i in range(5)]
    async with EngineThread(partial(create_engine, config)) as engine:
        assert (engine.num_slots, engine.max_context_tokens) == (3, 100)
        await engine.submit(requests)
        found: list[EngineEvent] = []
        async for events in engine.events():
            found += events
            if len(ends(found)) == len(requests):
                break
    check_story(found, [request.key for request in requests])


async def test_a_bad_checkpoint_reaches_who_starts_the_thread(tmp_path: Path) -> None:
    config = WorkerConfig(model_path=tmp_path)
    with pytest.raises(CheckpointError, match=r"it has no config\.json"):
        await EngineThread(partial(create_engine, config)).__aenter__()


@pytest.mark.skipif(not (checkpoint_path() / "config.json").exists(), reason="the tiny model is not trained yet")
def test_the_tiny_model_answers_as_generate_does() -> None:
    """Several questions about one document, stopped at the end of the line."""
    model, plain = load_model(checkpoint_path()), load_plain(checkpoint_path())
    document = "name: parrot\ncolour: green\nage: 42\nfood: seeds and fruit\n\n"
    prompts = [f"{document}What is the {field}?\nAnswer: " for field in ("name", "colour", "age", "food")]
    config = WorkerConfig(model_path=checkpoint_path(), device="cpu")
    engine = create_engine(config)
    found = ends(run(engine, [make_request(prompt, prompt, max_tokens=24, stop=["\n"]) for prompt in prompts]))
    assert engine.statistics().num_shared_tokens >= 3 * len(document)
    for prompt in prompts:
        end, input_ids = found[prompt], torch.tensor([model.encode(prompt)])
        output = plain.generate(
            input_ids, attention_mask=torch.ones_like(input_ids), max_new_tokens=24, do_sample=False, pad_token_id=0
        )
        assert isinstance(end, Finished)
        assert end.text == model.decode(output[0, input_ids.shape[1] :].tolist()).split("\n")[0]
