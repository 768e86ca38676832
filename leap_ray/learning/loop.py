"""One worker's way through a training: steps, progress lines, evaluation, best weights, checkpoints. Knows nothing of Ray.

Who feeds the rows and who keeps the checkpoints is the caller's affair (`Feed`, `Outside`): Ray Train in `actors/learner.py`,
plain lists in the tests.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from leap_ray.errors import UserError
from leap_ray.learning import checkpoint
from leap_ray.learning.checkpoint import Position
from leap_ray.learning.prefix_tree import Row
from leap_ray.learning.schedule import PlannedStep
from leap_ray.learning.train import StepRows, Trainer

LISTED_SECONDS = 60.0
Named = tuple[str, Row]


class Feed(Protocol):
    """Where one worker's rows come from. None stands for a row that only keeps pace with the other workers."""

    evaluates: bool  # whether any worker has held-out rows

    def steps(self, start: int) -> Iterator[list[Named | None]]:
        """This worker's rows of each planned step from `start` on."""
        ...

    def evaluation(self) -> Iterable[Named | None]:
        """This worker's share of the held-out rows."""
        ...

    def everything(self) -> Iterable[Named | None]:
        """This worker's share of all rows, each once."""
        ...


@dataclass(frozen=True)
class Outside:
    """What the loop asks of its surroundings."""

    first: bool  # this is the worker that writes
    best: Path  # where the best weights go
    base: str  # the student's name, for the adapter's configuration
    progress: Callable[[dict[str, Any]], None]
    checkpoint: Callable[[Position], None]
    masters: bool = False  # keep the float32 masters of full training beside the best weights


def fit(trainer: Trainer, plan: list[PlannedStep], feed: Feed, outside: Outside, position: Position) -> Position:
    """Train from `position` to the plan's end. The best weights are then in `outside.best`.

    Raises UserError, on every worker, for a loss or gradient that is not a number: no later step could mend the weights.
    """
    for planned, rows in zip(plan[position.next_step :], feed.steps(position.next_step)):
        begun = time.perf_counter()
        metrics = trainer.step(StepRows(planned.index, planned.epoch, planned.mass, rows))
        seconds = time.perf_counter() - begun
        _check_finite(metrics, planned, len(plan))
        position = replace(position, next_step=planned.index + 1)
        last = position.next_step == len(plan)
        due = position.next_step % trainer.config.checkpoint_every == 0
        if feed.evaluates and (due or last):
            metrics |= trainer.evaluate(item and item[1] for item in feed.evaluation())
        if last or "eval_loss" in metrics:
            position = _keep_best(trainer, metrics.get("eval_loss"), outside, position)
        outside.progress(_line(planned, len(plan), metrics, seconds))
        if due and not last:
            outside.checkpoint(position)
    if position.best_step < 0:
        raise UserError(
            "the evaluation loss was never a number, so no weights can be called the best: lower the learning rate, "
            "or look at the held-out examples (learner.holdout)"
        )
    return position


def _check_finite(metrics: dict[str, float], planned: PlannedStep, steps: int) -> None:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(metrics[name]):
            raise UserError(
                f"training stopped at step {planned.index + 1} of {steps}: its {name} is {metrics[name]}. "
                f"Lower the learning rate (it was {metrics['learning_rate']:.2g}) or learner.clip_norm, "
                "or compute in learner.precision: float32"
            )


def _keep_best(trainer: Trainer, loss: float | None, outside: Outside, position: Position) -> Position:
    """Write the weights if they are the best so far, or if nothing tells good from bad. A loss of NaN is never the best."""
    if loss is not None and not loss < position.best_loss:
        return position
    checkpoint.write_student(
        outside.best, trainer, trainer.config, outside.base, first=outside.first, masters=outside.masters
    )
    return replace(position, best_step=position.next_step, best_loss=float("inf") if loss is None else loss)


def _line(planned: PlannedStep, steps: int, metrics: dict[str, float], seconds: float) -> dict[str, Any]:
    return {
        "step": planned.index + 1,
        "steps": steps,
        "epoch": planned.epoch,
        **metrics,
        "loss_tokens": planned.loss_tokens,
        "tokens": planned.tokens,
        "plain_tokens": planned.plain_tokens,
        "seconds": seconds,
        "tokens_per_second": planned.tokens / seconds,
    }


class ProgressFile:
    """`progress.jsonl`: one line per optimiser step. Steps that will be done again after a resume are taken out first."""

    def __init__(self, path: Path, next_step: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        kept = [line for line in read_progress(path) if line["step"] <= next_step]
        part.write_text("".join(json.dumps(line) + "\n" for line in kept))
        part.replace(path)

    def append(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def read_progress(path: Path) -> list[dict[str, Any]]:
    """The lines written so far; a last line cut off by a crash is not among them."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


class ReferenceStore:
    """The reference policy's log-probabilities: computed once, before the first step, kept in one file per worker."""

    def __init__(self, folder: Path, worker: int) -> None:
        self.folder, self.worker = folder, worker
        complete = (
            folder / "complete"
        )  # holds how many files there are: a network file system may not list all of them yet
        self._files = int(complete.read_text() or 0) if complete.exists() else 0

    def compute(self, trainer: Trainer, feed: Feed) -> None:
        """Every worker must call. The weights at this point are the previous iteration's."""
        found: dict[str, Any] = dict(trainer.reference(feed.everything()))
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{self.worker}.part.npz"
        np.savez(part, **found)
        part.replace(self.folder / f"{self.worker}.npz")
        self._files = trainer.workers

    def finish(self) -> None:
        """To be called by each worker when all have computed."""
        part = self.folder / f".complete.{self.worker}"
        part.write_text(str(self._files))
        part.replace(self.folder / "complete")

    @property
    def complete(self) -> bool:
        return self._files > 0

    def load(self) -> dict[str, np.ndarray]:
        """Row id → log-probabilities of its sequences, of all workers. Raises UserError if a worker's file does not appear."""
        found: dict[str, np.ndarray] = {}
        for worker in range(self._files):
            path = self.folder / f"{worker}.npz"
            _await_file(path)
            with np.load(path) as stored:
                found |= dict(stored)
        return found


def _await_file(path: Path) -> None:
    """Wait for a file of another node: a network file system may show it half a minute after it was written."""
    deadline = time.monotonic() + LISTED_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"{path} of another worker does not appear here: the run directory must be one that every node sees"
            )
        os.listdir(path.parent)  # has the file system look again
        time.sleep(0.5)
