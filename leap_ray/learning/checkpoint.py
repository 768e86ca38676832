"""What training leaves on disk while it runs: distributed checkpoints to go on from, and the best weights so far."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from leap_ray.config import LearnerConfig
from leap_ray.errors import UserError
from leap_ray.learning.model import MASTERS, masters_beside, save_student
from leap_ray.learning.train import Trainer, whole

POSITION = "position.json"
CHECKPOINTS = 2  # kept at a time


@dataclass(frozen=True)
class Position:
    """How far a training has come."""

    next_step: int = 0
    best_step: int = -1  # the step after which the best weights were written; -1: none yet
    best_loss: float = float("inf")  # evaluation loss of those


def save(folder: Path, trainer: Trainer, position: Position, *, first: bool = True) -> None:
    """Write the trainer's state (each worker its shards, into its own `folder` or a shared one) and the position."""
    from torch.distributed.checkpoint.state_dict_saver import save as write

    write(trainer.state(), checkpoint_id=str(folder))
    if first:
        (folder / POSITION).write_text(json.dumps(asdict(position)))


def load(folder: Path, trainer: Trainer) -> Position:
    """Bring a trainer to where a checkpoint stands; the number of workers may have changed."""
    from torch.distributed.checkpoint.state_dict_loader import load as read

    state = trainer.state()
    read(state, checkpoint_id=str(folder))
    trainer.restored(state)
    return Position(**json.loads((folder / POSITION).read_text()))


def newest(folder: Path) -> Path | None:
    """The checkpoint below a folder that is furthest on and whole: a full disk or a kill may have left parts of one."""
    whole_ones = [(position.next_step, path) for path in folder.glob("*/") if (position := _whole_position(path))]
    return max(whole_ones)[1] if whole_ones else None


def _whole_position(folder: Path) -> Position | None:
    """Where a checkpoint stands; None unless every byte that its index names is there."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    try:
        position = Position(**json.loads((folder / POSITION).read_text()))
        parts = FileSystemReader(folder).read_metadata().storage_data.values()
        ends = [(folder / part.relative_path, part.offset + part.length) for part in parts]
        return position if all(path.stat().st_size >= end for path, end in ends) else None
    except Exception:  # whatever a torn file makes of its reader
        return None


def write_student(
    folder: Path, trainer: Trainer, config: LearnerConfig, base: str, *, first: bool = True, masters: bool = False
) -> None:
    """The trained weights as a standard folder, replaced as a whole. Every worker must call; the first one writes.

    `masters`: those of full training are kept in it too, in float32.
    """
    tensors: dict[str, Any] = {}
    for name, tensor in trainer.trained().items():
        full = whole(tensor)
        if first:
            tensors[name] = full.cpu()
    if not first:
        return
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    save_student(trainer.model, part, tensors, config, base, masters)
    replace_folder(part, folder)


def move_masters(best: Path, weights: Path) -> None:
    """Take the masters out of the best weights' folder and put them beside the finished ones. Safe to repeat after a kill."""
    source, target = best / MASTERS, masters_beside(weights)
    if source.is_dir() and not target.exists():
        part = target.with_name(f".{MASTERS}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part, copy_function=_link)
        os.replace(part, target)
    shutil.rmtree(source, ignore_errors=True)


def _link(source: str, target: str) -> None:
    """A second name for a file, which takes no room; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def share_moved(new: Path, old: Path | None) -> float | None:
    """Share of the trained weights that differ between two folders, in the precision of the new one.

    `old` None: the new one is a first adapter, whose factors B began at 0 (its random factors A are not counted). Returns None
    where the folders have no tensor in common.
    """
    before = _tensors(old) if old else {}
    moved = count = 0
    for name, handle in _tensors(new).items():
        tensor = handle.get_tensor(name)
        if name in before:
            other = before[name].get_tensor(name).to(tensor.dtype)
        elif old is None and "lora_B" in name:
            other = tensor.new_zeros(tensor.shape)
        else:
            continue
        if other.shape == tensor.shape:
            moved += int((tensor != other).sum())
            count += tensor.numel()
    return moved / count if count else None


def _tensors(folder: Path) -> dict[str, Any]:
    """Tensor name → the open file that holds it; tensors are read one at a time."""
    from safetensors import safe_open

    handles = [safe_open(file, "pt") for file in sorted(folder.glob("*.safetensors"))]
    return dict(chain.from_iterable(zip(handle.keys(), repeat(handle)) for handle in handles))


def disk_room(parameters: int, steps: int, config: LearnerConfig, masters: bool) -> int:
    """Bytes that full training of so many parameters writes: checkpoints (12 a parameter: masters and two moments), and the
    best weights (2, with masters 6), which stand twice while they are replaced and once more as the result.
    """
    checkpoints = min(CHECKPOINTS + 1, (steps - 1) // config.checkpoint_every)  # one is written before the oldest goes
    return parameters * (12 * checkpoints + (2 * 6 + 2 if masters else 3 * 2))


def check_disk(storage: Path, wanted: int) -> None:
    """Refuse a training that would fill its disk, before it begins; what a resumed one has written is taken off."""
    wanted -= sum(file.stat().st_size for file in storage.rglob("*") if file.is_file())
    free = shutil.disk_usage(storage).free
    if free < wanted:
        raise UserError(
            f"full training writes up to {wanted / 2**30:.1f} GiB more under {storage} (weights, float32 masters, checkpoints), "
            f"where {free / 2**30:.1f} GiB are free: free some, choose another --run-dir, set learner.checkpoint_every higher, "
            "or train an adapter (learner.method: lora)"
        )


def replace_folder(new: Path, old: Path) -> None:
    """Put a finished folder where another may stand."""
    aside = old.with_name(f".{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        old.rename(aside)
    os.replace(new, old)
    shutil.rmtree(aside, ignore_errors=True)
