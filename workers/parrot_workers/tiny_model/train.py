"""Train the tiny model: ``python -m parrot_workers.tiny_model.train --help``.

One thread is enough: about an hour. The run can be stopped at any time; the same command goes on where it stood.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.nn import functional
from transformers import GenerationConfig, LlamaForCausalLM

from parrot_workers.tiny_model.documents import Row, draw_batch
from parrot_workers.tiny_model.recipe import ADAMW_RATE, AVERAGE_DECAY, MUON_RATE, STAGES, Stage, model_config
from parrot_workers.tiny_model.records import RecordShape
from parrot_workers.tiny_model.tasks import TASKS, Sample
from parrot_workers.tiny_model.tokenizer import BOS_ID, EOS_ID, PAD_ID, save_tokenizer
from parrot_workers.tiny_model.values import Split, Values

_STATE_FILE = "state.pt"
_LOG_FILE = "log.jsonl"


class Trainer:
    """The state of a training run, kept in a folder.

    Args:
        folder: Where the state, the log and the checkpoint go; a state found there is resumed.
        seed: Seed of the weights and of the data.
        stages: The stages, one after the other.
    """

    def __init__(self, folder: Path, seed: int, stages: tuple[Stage, ...]) -> None:
        torch.manual_seed(seed)
        self.folder = folder
        self.seed = seed
        self.stages = stages
        self.model: Any = LlamaForCausalLM(model_config())
        self.average: Any = LlamaForCausalLM(model_config())
        self.average.load_state_dict(self.model.state_dict())
        self.optimizers = _make_optimizers(self.model)
        self.step = 0
        self.seconds = 0.0
        if (folder / _STATE_FILE).exists():
            self._load()

    @property
    def num_steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """Return the stage of ``step``, and the number of the step within it."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise IndexError("past the last stage")

    def train_step(self) -> float:
        """Do one optimizer step; return the loss."""
        stage, stage_step = self.stage_at(self.step)
        started = time.process_time()
        loss = weighted_loss(self.model, draw_batch(self.seed, self.step, stage.mixture))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, base in zip(self.optimizers, (MUON_RATE, ADAMW_RATE), strict=True):
            optimizer.param_groups[0]["lr"] = base * stage.rate(stage_step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._update_average()
        self.step += 1
        self.seconds += time.process_time() - started
        return float(loss.detach())

    def save(self) -> None:
        """Write the state for resuming, and the checkpoint."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, self.folder / f"{_STATE_FILE}.part")
        (self.folder / f"{_STATE_FILE}.part").replace(self.folder / _STATE_FILE)
        export_checkpoint(self.average, self.folder / "checkpoint")

    def log(self, **facts: object) -> None:
        """Append a line of facts to the log."""
        with (self.folder / _LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.step, "cpu_s": round(self.seconds), **facts}) + "\n")

    @torch.no_grad()
    def _update_average(self) -> None:
        """Move the averaged weights, which are the ones exported, towards the trained ones."""
        for averaged, trained in zip(self.average.parameters(), self.model.parameters(), strict=True):
            averaged.lerp_(trained, 1 - AVERAGE_DECAY)

    def _load(self) -> None:
        state = torch.load(self.folder / _STATE_FILE, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state.get("average", state["model"]))
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]


def _make_optimizers(model: torch.nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Make Muon for the matrices of the layers, and AdamW for the embedding and the norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.01)
    return muon, torch.optim.AdamW(others, lr=ADAMW_RATE, betas=(0.9, 0.98), weight_decay=0.0)


def weighted_loss(model: Any, rows: list[Row]) -> torch.Tensor:
    """Return the cross entropy of the next token, averaged by the weights of the rows."""
    ids = torch.tensor([row.ids for row in rows])  # [num_rows, row_tokens]
    weights = torch.tensor([row.weights for row in rows])[:, 1:].reshape(-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    targets = ids[:, 1:].reshape(-1)
    losses = functional.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="none")
    return (losses * weights).sum() / weights.sum()


@torch.no_grad()
def teacher_forced_accuracy(model: Any, samples: list[Sample]) -> dict[str, float]:
    """Return the share of samples per task whose last answer greedy generation would give.

    An answer is generated greedily exactly if each of its bytes is the most likely one after the bytes before it.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    ordered = sorted(samples, key=lambda sample: len(sample.text))
    for start in range(0, len(ordered), 16):
        batch = ordered[start : start + 16]
        texts = [list(sample.text.encode()) for sample in batch]
        longest = max(map(len, texts))
        ids = torch.tensor([text + [PAD_ID] * (longest - len(text)) for text in texts])
        best = model(input_ids=ids, use_cache=False).logits.argmax(-1)
        for sample, text, row in zip(batch, texts, best.tolist(), strict=True):
            first = len(text) - len(sample.turns[-1].answer.encode()) - 1
            right[sample.task].append(row[first - 1 : len(text) - 1] == text[first:])
    return {task: sum(found) / len(found) for task, found in right.items()}


def held_out_samples(num_samples: int, shape: RecordShape) -> list[Sample]:
    """Draw ``num_samples`` held-out samples per task, half of them canonical."""
    values = Values(random.Random("validation"), Split.HELD_OUT)
    return [task(values, shape, index % 2 == 0) for task in TASKS.values() for index in range(num_samples)]


def export_checkpoint(model: Any, folder: Path) -> None:
    """Write ``model`` in bfloat16 with its tokenizer and generation settings."""
    half = LlamaForCausalLM(model_config())
    half.load_state_dict(model.state_dict())
    half.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=PAD_ID, do_sample=False
    )
    half.to(dtype=torch.bfloat16).save_pretrained(folder)  # type: ignore[call-arg]
    save_tokenizer(folder)


def train(trainer: Trainer, *, save_every: int, check_every: int) -> None:
    """Run all remaining steps, with a progress bar, regular checks on held-out samples, and saving."""
    samples = held_out_samples(48, RecordShape())
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, refresh_per_second=0.5) as progress:
        bar = progress.add_task("training", total=trainer.num_steps, completed=trainer.step)
        while trainer.step < trainer.num_steps:
            loss = trainer.train_step()
            progress.update(bar, completed=trainer.step, description=f"loss {loss:.3f}")
            if trainer.step % check_every == 0 or trainer.step == trainer.num_steps:
                accuracy = teacher_forced_accuracy(trainer.average, samples)
                trainer.log(loss=round(loss, 3), **{task: round(share, 3) for task, share in accuracy.items()})
            if trainer.step % save_every == 0 or trainer.step == trainer.num_steps:
                trainer.save()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m parrot_workers.tiny_model.train", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("tiny-model-run"), help="folder of the run")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and data")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--steps", type=int, nargs="*", help="steps of each stage instead of the recipe's")
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--check-every", type=int, default=100, help="steps between checks on held-out samples")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    stages = STAGES
    if options.steps:
        stages = tuple(dataclasses.replace(s, steps=n) for s, n in zip(STAGES, options.steps, strict=True))
    options.output.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(options.output, options.seed, stages)
    train(trainer, save_every=options.save_every, check_every=options.check_every)


if __name__ == "__main__":
    main()
