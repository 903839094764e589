"""Is it right? The small trained model, by every way through the engine, against the reference attention.

Its answers are known, so each way is also held against the truth. Prompts of one document are asked several questions,
and a cost model that makes a level of every shared node sends all of it through the cascade.
"""

from __future__ import annotations

from parrot_workers.attention import ALWAYS, NEVER, CostModel
from parrot_workers.config import EngineConfig
from parrot_workers.engine.assembly import assemble
from parrot_workers.engine.base import GenerationRequest
from parrot_workers.models import LoadedModel, load_model
from parrot_workers.tiny_model import checkpoint_path
from parrot_workers.tiny_model.evaluate import Case, draw_cases

from benchmarks.gpu.driving import run_batch
from benchmarks.gpu.model import DEVICE, GPU_ATTENTION, IS_REHEARSAL
from benchmarks.gpu.stage import Deadline, tell
from parrot_mq.types import Sampling

NUM_SAMPLES = 1 if IS_REHEARSAL else 4
NUM_SLOTS = 48
WAYS: dict[str, tuple[dict[str, object], CostModel]] = {
    "reference": ({"attention": "reference", "cuda_graphs": False}, NEVER),
    "reference, cascade": ({"attention": "reference", "cuda_graphs": False}, ALWAYS),
    "paged, eager": ({"cuda_graphs": False}, NEVER),
    "cascade, eager": ({"cuda_graphs": False}, ALWAYS),
    "paged, graphs": ({}, NEVER),
    "cascade, graphs": ({}, ALWAYS),
}


def main() -> None:
    deadline = Deadline()
    model = load_model(checkpoint_path(), device=DEVICE, dtype="bfloat16")
    cases = draw_cases(NUM_SAMPLES)
    expected: dict[str, str] = {}
    for way, (settings, cost) in WAYS.items():
        if not deadline.allows(5, way):
            return
        texts = _answers(model, cases, {"attention": GPU_ATTENTION, **settings}, cost)
        expected = expected or texts
        num_equal = sum(texts[key] == expected[key] for key in texts)
        num_right = sum(texts[str(index)] == case.answer for index, case in enumerate(cases))
        tell("parity", way=way, num_prompts=len(cases), num_equal=num_equal, num_right=num_right)


def _answers(model: LoadedModel, cases: list[Case], settings: dict[str, object], cost: CostModel) -> dict[str, str]:
    config = EngineConfig(num_slots=NUM_SLOTS, cache_tokens=1 << 16, **settings)  # type: ignore[arg-type]
    engine = assemble(model, config, cost_model=cost)
    sampling = Sampling(max_tokens=64, stop=("\n",))
    requests = [
        GenerationRequest(key=str(index), prompt=case.prompt, sampling=sampling) for index, case in enumerate(cases)
    ]
    run = run_batch(engine, requests)
    return {key: finished.text for key, finished in run.outputs.items()}


if __name__ == "__main__":
    main()
