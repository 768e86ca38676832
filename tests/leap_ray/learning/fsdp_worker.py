"""What test_learning_workers runs: a training of a tiny model on toy episodes, alone or as one of two processes."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import tiny
import torch
import torch.distributed as dist

from leap_ray.config import LearnerConfig
from leap_ray.learning.aggregate import Header, select
from leap_ray.learning.checkpoint import Position
from leap_ray.learning.loop import Outside, ProgressFile, ReferenceStore, fit
from leap_ray.learning.rows import pack_window, read_record, row_from_record
from leap_ray.learning.schedule import deal, plan_steps
from leap_ray.learning.train import Trainer, whole


class Feed:
    """This worker's rows, with their reference log-probabilities once they are known."""

    def __init__(self, folder, plan, infos, rank, workers):
        self.folder, self.plan, self.rank = folder, plan, rank
        self.held_out = deal([i for i in infos if i.split == "eval"], workers)[rank]
        self.evaluates = any(i.split == "eval" for i in infos)
        self.all = deal(infos, workers)[rank]
        self.known = {}

    def named(self, info):
        row = row_from_record(read_record(self.folder, info.file, info.index))
        return info.id, dataclasses.replace(row, reference=self.known.get(info.id))

    def steps(self, start):
        for step in self.plan[start:]:
            yield [info and self.named(info) for info in step.rows[self.rank]]

    def evaluation(self):
        return (info and self.named(info) for info in self.held_out)

    def everything(self):
        return (info and self.named(info) for info in self.all)


def train(rank: int, workers: int, folder: Path, method: str, objective: str) -> None:
    """One training; leaves `progress.jsonl` and `weights.pt` in the folder."""
    folder.mkdir(exist_ok=True)
    config = LearnerConfig(
        method=method, precision="float32", learning_rate=1e-2, dpo_learning_rate=1e-2, beta=0.5, warmup_steps=1,
        batch_tokens=40, row_tokens=64, workers=workers, holdout=0.2, checkpoint_every=3, clip_norm=1.0,
    )  # fmt: skip
    examples = tiny.episodes(count=12, steps=4)
    headers = [Header.of(e.task.domain, e.iteration, e.task.id, e.id, seed=0) for e in examples]
    rows = folder / f"rows-{rank}"
    rows.mkdir(exist_ok=True)
    infos, _ = pack_window(
        examples, folder=rows, selection=select(headers, config, 0), config=config, objective=objective,
        stop_ids=[tiny.STOP],
    )  # fmt: skip
    plan = plan_steps([i for i in infos if i.split == "train"], config, 0, workers)
    model = tiny.model(lora=method == "lora")
    for module in model.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = torch.nn.Dropout(0.2)
    trainer = Trainer(model, config, objective, len(plan), seed=0, workers=workers)
    feed = Feed(rows, plan, infos, rank, workers)
    if objective != "sft":
        store = ReferenceStore(folder / "reference", rank)
        store.compute(trainer, feed)
        if workers > 1:
            dist.barrier()
        feed.known = store.load()
    progress = ProgressFile(folder / "progress.jsonl", 0).append if rank == 0 else lambda line: None
    fit(trainer, plan, feed, Outside(rank == 0, folder / "best", "tiny", progress, lambda position: None), Position())
    weights = {n: whole(t).clone() for n, t in trainer.trained().items()}
    if rank == 0:
        torch.save(weights, folder / "weights.pt")


def main(rank: int, workers: int, folder: str, jobs: list[tuple[str, str]]) -> None:
    """All jobs, one after another, in one process group."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=workers)
    for method, objective in jobs:
        train(rank, workers, Path(folder) / f"{method}-{objective}", method, objective)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
