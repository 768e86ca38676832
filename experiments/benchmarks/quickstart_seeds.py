"""What the quickstart gives over several training seeds on one evaluation panel, beside two controls: every run's row.

    leap      the configuration as it is
    alone     the same with `rollout.intervention: 0`: the student plays alone, failed episodes are corrected afterwards
    cloning   behaviour cloning alone, with as many labelled steps (training targets) as the `leap` run of that seed used

Each is a whole run by the command line. One that is there already, or was interrupted, goes on. The last line is one JSON object:
success of every policy by arm and seed, labelled steps, the last policy's gain over iteration 0 paired by task, minutes.
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
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from leap_ray.config import load
from leap_ray.evaluation import compare
from leap_ray.report.tables import outcomes, results

Arm = Literal["leap", "alone", "cloning"]


@dataclass
class Args:
    """Run a configuration of one domain with several seeds."""

    config: Path = Path("experiments/quickstart.yaml")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    arms: tuple[Arm, ...] = ("leap", "alone", "cloning")
    folder: Path = Path("runs/quickstart_seeds")
    """Where the runs lie: `<arm>/seed-<n>`."""
    options: tuple[str, ...] = ()
    """Further options of every run, such as `--iterations 2`."""


def main(args: Args) -> None:
    rows = [row(args, arm, seed) for arm in args.arms for seed in args.seeds]
    if len(panels := {r["panel"] for r in rows}) > 1:
        raise SystemExit(f"the runs were evaluated on different panels: {', '.join(sorted(panels))}")
    Console(width=140).print(table(args, rows))
    means = {}
    for arm in args.arms:
        last = [r["success"][-1] for r in rows if r["arm"] == arm]
        means[arm] = {"last": statistics.fmean(last), "sd": statistics.stdev(last) if len(last) > 1 else None}
        gains = [r["gain"]["difference"] for r in rows if r["arm"] == arm and r["gain"]]
        means[arm] |= {"gain": statistics.fmean(gains), "least_gain": min(gains)} if gains else {}
    print(json.dumps({"panel": panels.pop(), "cores": os.cpu_count(), "over_seeds": means, "runs": rows}))


def row(args: Args, arm: Arm, seed: int) -> dict[str, Any]:
    """One run to its end, and its figures: success by policy with 95 % intervals, the untuned student first if it played."""
    run = args.folder / arm / f"seed-{seed}"
    options: tuple[str, ...] = ()
    if arm == "alone":
        options = ("--rollout.intervention", "0")
    elif arm == "cloning":
        options = ("--iterations", "1", "--domains.0.demo-tasks", str(demonstrations_for(args, seed)))
    minutes = played(args, run, seed, options)
    policies = results(run, "evaluate")
    return {
        "arm": arm,
        "seed": seed,
        "policies": [name for name, _, _ in policies],
        "success": [r["success"] for _, _, r in policies],
        "intervals": [r["interval"] for _, _, r in policies],
        "episodes": policies[-1][2]["episodes"],
        "panel": policies[-1][2]["panel"],
        "labelled_steps": labelled_steps(run),
        "gain": gain(run, [name for name, _, _ in policies if name != "base"]),
        "minutes": minutes,
    }


def played(args: Args, run: Path, seed: int, options: tuple[str, ...]) -> float:
    """The run to its end. Returns its minutes, those of earlier parts included."""
    clock, finished = run / "minutes.json", run / "finished"
    before = json.loads(clock.read_text()) if clock.exists() else 0.0
    if finished.exists():
        return before
    began = time.monotonic()
    command = [sys.executable, "-m", "experiments", "run", str(args.config), "--run-dir", str(run), "--seed", str(seed)]
    try:
        subprocess.run([*command, *options, *args.options], check=True)
        finished.touch()
    finally:
        run.mkdir(parents=True, exist_ok=True)
        clock.write_text(json.dumps(before + (time.monotonic() - began) / 60))
    return json.loads(clock.read_text())


def labelled_steps(run: Path) -> int:
    """Steps of the run for which somebody's word is a training target."""
    return sum(r["examples"] for stage in ("demonstrations", "rollouts") for _, _, r in results(run, stage))


def demonstrations_for(args: Args, seed: int) -> int:
    """How many demonstrations hold as many steps as the `leap` run of that seed labelled, at the length of its own."""
    run = args.folder / "leap" / f"seed-{seed}"
    if not (run / "finished").exists():
        raise SystemExit(f"cloning is sized by the arm `leap`: run that first ({run} is not finished)")
    ((_, _, shown),) = results(run, "demonstrations")
    return round(labelled_steps(run) * shown["kept"] / shown["examples"])


def gain(run: Path, names: list[str]) -> dict[str, float] | None:
    """The last policy beside iteration 0's, paired by task; None where that is the only one."""
    if len(names) < 2:
        return None
    domain = load(run / "config.yaml").domains[0].name
    first, last = (outcomes(run / name / "evaluate" / domain) for name in (names[0], names[-1]))
    found = compare(first, last)
    return {"difference": found.difference, "p": found.p}


def table(args: Args, rows: list[dict[str, Any]]) -> Table:
    made = Table(title=f"{args.config.stem}: success % [95 % interval]")
    for title in ("arm", "seed", "policies", "success %", "last − iteration 0", "labelled steps", "minutes"):
        made.add_column(title, justify="left" if title in ("arm", "policies") else "right")
    for r in rows:
        rates = (
            f"{100 * s:.0f} [{100 * low:.0f}, {100 * high:.0f}]" for s, (low, high) in zip(r["success"], r["intervals"])
        )
        made.add_row(
            r["arm"], str(r["seed"]), ", ".join(r["policies"]), ", ".join(rates),
            f"{100 * r['gain']['difference']:+.0f} (p {r['gain']['p']:.2g})" if r["gain"] else "",
            str(r["labelled_steps"]), f"{r['minutes']:.1f}",
        )  # fmt: skip
    return made


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
