"""What training leaves on disk while it runs: distributed checkpoints to go on from, and the best weights so far."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leap_ray.config import LearnerConfig
from leap_ray.learning.model import save_student
from leap_ray.learning.train import Trainer, whole

POSITION = "position.json"


@dataclass(frozen=True)
class Position:
    """How far a training has come."""

    next_step: int = 0
    best_step: int = -1  # the step after which the best weights were written; -1: none yet
    best_loss: float = float("inf")  # evaluation loss of those


def save(folder: Path, trainer: Trainer, position: Position, *, first: bool = True) -> None:
    """Write the trainer's state (each worker its shards, into its own `folder` or a shared one) and the position."""
    import torch.distributed.checkpoint as dcp

    dcp.save(trainer.state(), checkpoint_id=str(folder))
    if first:
        (folder / POSITION).write_text(json.dumps(asdict(position)))


def load(folder: Path, trainer: Trainer) -> Position:
    """Bring a trainer to where a checkpoint stands; the number of workers may have changed."""
    import torch.distributed.checkpoint as dcp

    state = trainer.state()
    dcp.load(state, checkpoint_id=str(folder))
    trainer.restored(state)
    return Position(**json.loads((folder / POSITION).read_text()))


def write_student(folder: Path, trainer: Trainer, config: LearnerConfig, base: str, *, first: bool = True) -> None:
    """The trained weights as a standard folder, replaced as a whole. Every worker must call; the first one writes."""
    tensors: dict[str, Any] = {}
    for name, tensor in trainer.trained().items():
        full = whole(tensor)
        if first:
            tensors[name] = full.cpu()
    if not first:
        return
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    save_student(trainer.model, part, tensors, config, base)
    replace_folder(part, folder)


def replace_folder(new: Path, old: Path) -> None:
    """Put a finished folder where another may stand."""
    aside = old.with_name(f".{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        old.rename(aside)
    os.replace(new, old)
    shutil.rmtree(aside, ignore_errors=True)
