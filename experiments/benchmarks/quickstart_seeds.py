"""What the quickstart gives, over several training seeds on one evaluation panel: every run's row, not the luckiest one's.

Each seed is a whole run of the configuration by the command line. A run that is there already, or was interrupted, goes on. The
last line is one JSON object: success of every policy by seed, the mean over seeds with its standard deviation, minutes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from leap_ray.config import load
from leap_ray.evaluation import compare
from leap_ray.report.tables import outcomes, results


@dataclass
class Args:
    """Run a configuration with several seeds."""

    config: Path = Path("experiments/quickstart.yaml")
    seeds: tuple[int, ...] = (0, 1, 2)
    folder: Path = Path("runs/quickstart_seeds")
    """Where the runs lie, one folder a seed."""
    options: tuple[str, ...] = ()
    """Further options of every run, such as `--iterations 2`."""


def main(args: Args) -> None:
    runs = {seed: args.folder / f"seed-{seed}" for seed in args.seeds}
    minutes = {seed: played(args, seed, run) for seed, run in runs.items()}
    policies = {seed: evaluations(run) for seed, run in runs.items()}
    if len(panels := {r["panel"] for rows in policies.values() for r in rows.values()}) > 1:
        raise SystemExit(f"the runs were evaluated on different panels: {', '.join(sorted(panels))}")
    names = list(next(iter(policies.values())))
    Console(width=140).print(table(args, policies, names, minutes))
    rates = {name: [policies[seed][name]["success"] for seed in args.seeds] for name in names}
    gains = {seed: gain(runs[seed], names) for seed in args.seeds}
    summary = {
        name: {"mean": statistics.fmean(r), "sd": statistics.stdev(r) if len(r) > 1 else None}
        for name, r in rates.items()
    }
    figures = {"panel": panels.pop(), "n": policies[args.seeds[0]][names[0]]["episodes"], "cores": os.cpu_count()}
    print(
        json.dumps({**figures, "success": rates, "over_seeds": summary, "last_minus_iter-0": gains, "minutes": minutes})
    )


def played(args: Args, seed: int, run: Path) -> float:
    """The run to its end. Returns its minutes, those of earlier parts included."""
    clock = run / "minutes.json"
    before = json.loads(clock.read_text()) if clock.exists() else 0.0
    if (run / f"iter-{load(args.config).iterations - 1}" / "evaluate").exists() and before:
        return before
    began = time.monotonic()
    command = [sys.executable, "-m", "experiments", "run", str(args.config), "--run-dir", str(run), "--seed", str(seed)]
    try:
        subprocess.run([*command, *args.options], check=True)
    finally:
        run.mkdir(parents=True, exist_ok=True)
        clock.write_text(json.dumps(before + (time.monotonic() - began) / 60))
    return json.loads(clock.read_text())


def evaluations(run: Path) -> dict[str, dict[str, Any]]:
    """Result by policy, the untuned student first."""
    return {name: result for name, _, result in results(run, "evaluate")}


def gain(run: Path, names: list[str]) -> dict[str, float]:
    """The last policy beside iteration 0's, paired by task."""
    domain = next((run / names[0] / "evaluate").iterdir()).name
    first, last = (outcomes(run / name / "evaluate" / domain) for name in ("iter-0", names[-1]))
    found = compare(first, last)
    return {"difference": found.difference, "p": found.p}


def table(args: Args, policies: dict[int, dict[str, Any]], names: list[str], minutes: dict[int, float]) -> Table:
    made = Table(title=f"{args.config.stem}: success % [95 % interval] by training seed")
    for title in ("seed", *names, "minutes"):
        made.add_column(title, justify="right")
    for seed, rows in policies.items():
        cells = (
            f"{100 * r['success']:.0f} [{100 * r['interval'][0]:.0f}, {100 * r['interval'][1]:.0f}]"
            for r in (rows[name] for name in names)
        )
        made.add_row(str(seed), *cells, f"{minutes[seed]:.1f}")
    return made


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
