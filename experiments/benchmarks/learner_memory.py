"""Peak memory of an optimiser step against the row's token budget: one row, then four, at each of three budgets.

The budget bounds memory; the number of rows in a step only its time. Each measurement is a fresh process (a peak never
falls), trains on corrected episodes of generated households, and takes the difference to the loaded model and optimiser.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from leap_ray.config import SMOLLM2, LearnerConfig

GIB = 2**20  # in the KiB that getrusage counts


@dataclass
class Args:
    """Measure a training step's memory."""

    model: str = SMOLLM2
    method: Literal["lora", "full"] = "full"
    rank: int = 16
    budgets: tuple[int, ...] = (512, 1024, 2048)
    """Tokens of a row."""
    rows: tuple[int, ...] = (1, 4)
    """Rows of a step."""
    threads: int = 2
    child: str | None = None
    """Set by the script itself: the measurement to make."""


def main(args: Args) -> None:
    if args.child:
        print(json.dumps(measure(args, **json.loads(args.child))))
        return
    table = Table(title=f"Memory of an optimiser step, {args.method}, bfloat16")
    for column in ("row budget", "rows", "tokens in the largest row", "before the step, GiB", "peak, GiB", "step, GiB"):
        table.add_column(column, justify="right")
    found = [child(args, budget, rows) for budget in args.budgets for rows in args.rows]
    for f in found:
        figures = (f"{f[k]:.2f}" for k in ("before_gib", "peak_gib", "step_gib"))
        table.add_row(str(f["budget"]), str(f["rows"]), str(f["tokens"]), *figures)
    Console(width=110).print(table)
    print(json.dumps({"method": args.method, "measurements": found}))


def child(args: Args, budget: int, rows: int) -> dict[str, Any]:
    """One measurement in a process of its own."""
    told = json.dumps({"budget": budget, "rows": rows})
    command = [sys.executable, __file__, "--model", args.model, "--method", args.method, "--rank", str(args.rank)]
    done = subprocess.run(
        [*command, "--threads", str(args.threads), "--child", told], stdout=subprocess.PIPE, check=True, text=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(args: Args, budget: int, rows: int) -> dict[str, Any]:
    """A first step on a tiny row makes the optimiser's moments; the second one is measured."""
    import torch

    from leap_ray.learning.model import load_trainable, materialize
    from leap_ray.learning.objectives import mass
    from leap_ray.learning.train import StepRows, Trainer

    torch.set_num_threads(args.threads)
    config = LearnerConfig(method=args.method, rank=args.rank, row_tokens=budget)
    largest = rows_within(args.model, budget, rows)
    tiny = rows_within(args.model, 512, 1)
    trainer = Trainer(load_trainable(materialize(args.model), config), config, "sft", 2)
    before = 0.0
    for index, chosen in enumerate((tiny, largest)):
        before = resident() if index else 0.0
        total = sum(mass(row, "sft") for row in chosen)
        trainer.step(StepRows(index, 0, total, [(str(i), row) for i, row in enumerate(chosen)]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB
    figures = {"before_gib": before, "peak_gib": peak, "step_gib": peak - before}
    return {"budget": budget, "rows": rows, "tokens": max(r.tokens for r in largest), **figures}


def resident() -> float:
    """GiB that this process holds now."""
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize() / 2**30


def rows_within(model: str, budget: int, count: int) -> list[Any]:
    """The `count` largest rows of corrected episodes that a budget gives; examples too long for it are left out."""
    from experiments.benchmarks.stumbles import corrected
    from leap_ray.envs.base import make_env
    from leap_ray.learning.model import materialize
    from leap_ray.learning.objectives import branches_of
    from leap_ray.learning.packing import rows_of
    from leap_ray.policy import Prompter
    from leap_ray.teachers.symbolic import SymbolicTeacher

    env, teacher = make_env("households", {}), SymbolicTeacher(make_env("households", {}), correct="all")
    prompter = Prompter.load(str(materialize(model)), "chat", False)
    tasks = env.panel("train").sample(16 * count, 0).tasks
    episodes = corrected(env, teacher, prompter, tasks, count=4 * count, steps=12, slips=0.5)
    examples = [e for episode in episodes for e in episode]
    fitting = [e for e in examples if len(e.prompt) + len(e.response) <= budget]
    units = [branches_of(e, "sft", i) for i, e in enumerate(fitting)]
    rows = rows_of(units, [e.id for e in fitting], budget)
    return sorted(rows, key=lambda row: -row.tokens)[:count]


if __name__ == "__main__":
    main(tyro.cli(Args))
