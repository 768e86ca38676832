"""Figures of a run: always `metrics.jsonl`, and the trackers that the configuration names."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from leap_ray.errors import UserError
from leap_ray.journal import open_lines, write_line
from leap_ray.types import digest


class Metrics:
    """Appends one line per event, and hands its numbers to the trackers.

    An event is logged before its stage is marked done, so a run that was killed in between logs it once more: the same figures
    of the same event and step are not written again.
    """

    def __init__(self, folder: Path, trackers: Sequence[str], run: str, config: Mapping[str, Any]) -> None:
        self._last = _last_figures(folder / "metrics.jsonl")
        self._file = open_lines(folder / "metrics.jsonl")
        self._trackers = [_TRACKERS[name](folder, run, config) for name in trackers]

    def log(self, event: str, step: int, figures: Mapping[str, Any]) -> None:
        """One event (`evaluate/alfworld`) at a step (the iteration; -1 is the untuned student)."""
        content = json.dumps(figures)
        if self._last.get((event, step)) != content:
            write_line(self._file, json.dumps({"time": time.time(), "event": event, "step": step, **figures}))
            self._last[event, step] = content
        numbers = dict(_numbers(event, figures))
        for tracker in self._trackers:
            tracker.log(numbers, step)

    def close(self) -> None:
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


def _last_figures(path: Path) -> dict[tuple[str, int], str]:
    """The newest figures of each event and step, as JSON. Lines that a crash cut off are left out."""
    last = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(ValueError, KeyError, TypeError):
            event = json.loads(line)
            figures = {name: value for name, value in event.items() if name not in ("time", "event", "step")}
            last[event["event"], event["step"]] = json.dumps(figures)
    return last


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """What a tracker can draw, by its path: `rollouts/alfworld/outcomes/corrected`. Spaces become underscores."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(f"{name}/{str(key).replace(' ', '_')}", inner)
    elif isinstance(value, int | float):
        yield name, float(value)


class _TensorBoard:
    def __init__(self, folder: Path, run: str, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """Weights & Biases, extra `wandb`. Not run here: it needs an account."""

    def __init__(self, folder: Path, run: str, config: Mapping[str, Any]) -> None:
        wandb = _extra("wandb", "wandb")
        self._run = wandb.init(
            project="leap-ray",
            name=run,
            id=f"{folder.name}-{digest(str(folder), length=8)}",  # two runs of one name are two
            resume="allow",
            dir=folder,
            config=dict(config),
        )

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log({**numbers, "iteration": step})

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    """MLflow, extra `mlflow`, to the tracking server that its environment variables name."""

    def __init__(self, folder: Path, run: str, config: Mapping[str, Any]) -> None:
        self._mlflow = _extra("mlflow", "mlflow")
        self._mlflow.start_run(run_name=run)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(numbers), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


def _extra(module: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise UserError(f"tracker {module!r} is not installed: pip install 'leap-ray[{extra}]'") from None


_TRACKERS = {"tensorboard": _TensorBoard, "wandb": _Wandb, "mlflow": _Mlflow}
