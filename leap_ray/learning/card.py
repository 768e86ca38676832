"""The model card that lies beside trained weights: what made them, in words a person can check."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import yaml

from leap_ray.config import LearnerConfig
from leap_ray.types import to_plain


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where trained weights come from."""

    name: str
    base: str  # the student's name
    init_from: str | None  # the weights training began with; None: the base
    objective: str
    seed: int
    examples: int
    held_out: int  # examples of held-out tasks
    left_out: int  # examples that could not be trained on
    loss_tokens: int
    tokens: int
    steps: int
    metrics: Mapping[str, float]


def write_card(folder: Path, made: Provenance, config: LearnerConfig) -> None:
    """Write README.md with the front matter that model hubs read."""
    front = {
        "library_name": "peft" if config.method == "lora" else "transformers",
        "tags": ["leap-ray", made.objective],
    }
    if "/" in made.base and not made.base.startswith(("/", "package:", ".")):
        front["base_model"] = made.base
    lines = ["---", yaml.safe_dump(front, sort_keys=True).strip(), "---", "", f"# {made.name}", ""]
    lines += [_story(made, config), "", "| | |", "|---|---|"]
    lines += [f"| {key} | {_figure(value)} |" for key, value in made.metrics.items()]
    lines += ["", "Learner configuration:", "", "```yaml"]
    lines += [yaml.safe_dump(to_plain(config), sort_keys=True).strip(), "```", ""]
    (folder / "README.md").write_text("\n".join(lines))


def _story(made: Provenance, config: LearnerConfig) -> str:
    what = f"a LoRA adapter of rank {config.rank}" if config.method == "lora" else "fully trained weights"
    start = f"from {made.init_from}" if made.init_from else "from the untuned student"
    return (
        f"This is {what} for the student `{made.base}`, trained {start} by leap-ray with the objective "
        f"{made.objective.upper()}: {made.examples} examples ({made.loss_tokens} tokens under the loss, "
        f"{made.tokens} computed in prefix trees), {made.steps} optimiser steps, seed {made.seed}. "
        f"{made.held_out} examples of held-out tasks served for the evaluation loss; "
        f"{made.left_out} examples could not be used."
    )


def _figure(value: float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
