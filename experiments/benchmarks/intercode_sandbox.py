"""How fast InterCode's sandboxes are, and whether many of them for a long time leave anything behind.

    python experiments/benchmarks/intercode_sandbox.py [--sandboxes 64] [--minutes 10] [--base auto] [--data FOLDER]

First one sandbox alone: reset, step and submit, each beside what the same takes with a sandbox started anew for every command
(the alternative without a process inside). Then many at once: each plays episodes of the gold command and two looks around, with
a pause before every action as a student would need, while memory, mounts and processes are sampled.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from leap_ray.envs.intercode import reaper
from leap_ray.envs.intercode.backend import Backend
from leap_ray.envs.intercode.env import InterCodeEnv

LOOKS = ("ls -la /", "find . -maxdepth 2 -type f | head -20", "pwd")
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sandboxes", type=int, default=64, help="open at once")
    parser.add_argument("--minutes", type=float, default=2.0, help="of the second part")
    parser.add_argument("--base", default="auto", help="auto, host, or the folder of a Debian tree")
    parser.add_argument("--data", default="embedded", help="embedded, or a folder of InterCode's data")
    parser.add_argument("--think", type=float, default=0.5, help="seconds before every action of the second part")
    parser.add_argument("--rounds", type=int, default=40, help="episodes of the first part")
    args = parser.parse_args()
    env = InterCodeEnv(data=args.data, base=args.base)
    alone = measure_alone(env, args.base, args.rounds)
    print_alone(alone)
    load = run_many(args.sandboxes, args.minutes * 60, args.think, args.data, args.base)
    print_load(load, args.sandboxes)
    env.close()
    medians = {f"{name}_ms": round(statistics.median(times) * 1e3, 1) for name, times in alone.items()}
    print(json.dumps(medians | load.figures() | {"sandboxes": args.sandboxes, "minutes": args.minutes}))


def measure_alone(env: InterCodeEnv, base: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each reset, step and submit of gold episodes, and of a step in a sandbox made for it."""
    times: dict[str, list[float]] = {"reset": [], "step": [], "submit": [], "step_anew": []}
    tasks = env.panel("train").tasks
    backend = Backend("bubblewrap", base)
    for i in range(rounds + 3):
        task = tasks[i % len(tasks)]
        reset = timed(lambda task=task: env.reset(options={"task": task}))
        gold = env.item.gold if env.item else ""
        env.privileged()  # the gold command's own run is not the student's: it is made once and kept
        step = timed(lambda gold=gold: env.step(gold))
        submit = timed(lambda: env.step("submit"))
        anew = timed(lambda task=task: backend.open(env.tasks.trees[task.kind]).close())
        if i >= 3:  # the first make the trees
            for name, value in (("reset", reset), ("step", step), ("submit", submit), ("step_anew", anew + step)):
                times[name].append(value)
    return times


def timed(what) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


@dataclass
class Load:
    """What was seen while many sandboxes ran."""

    episodes: int = 0
    failures: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    samples: list[tuple[float, float, int, int, int]] = field(
        default_factory=list
    )  # s, MiB, of sandboxes, mounts, processes
    mounts_before: int = 0
    mounts_left: int = 0
    processes_left: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def figures(self) -> dict[str, float]:
        """Growth is the median of the last quarter's samples less that of the second quarter's: the first warms up."""
        quarter = max(1, len(self.samples) // 4)
        early, late = self.samples[quarter : 2 * quarter], self.samples[-quarter:]
        growth = statistics.median(s[1] for s in late) - statistics.median(s[1] for s in early or late)
        return {
            "rss_growth_mb": round(growth, 1),
            "mounts_left": self.mounts_left,
            "processes_left": self.processes_left,
            "episodes": self.episodes,
            "failures": len(self.failures),
            "mean_score": round(statistics.mean(self.scores), 3) if self.scores else 0.0,
        }


def run_many(count: int, seconds: float, think: float, data: str, base: str) -> Load:
    """`count` sandboxes at once for `seconds`, sampled once a second or so."""
    load = Load(mounts_before=mounts())
    deadline = time.monotonic() + seconds
    began = time.monotonic()
    with ThreadPoolExecutor(max_workers=count) as pool:
        players = [pool.submit(play_until, deadline, think, data, base, seed, load) for seed in range(count)]
        while not all(player.done() for player in players):
            time.sleep(min(1.0, max(0.05, seconds / 100)))
            load.samples.append((time.monotonic() - began, own_memory(), sandboxes_memory(), mounts(), own_sandboxes()))
        for player in players:
            player.result()
    load.mounts_left = mounts() - load.mounts_before
    load.processes_left = own_sandboxes() + len(reaper.orphans())
    return load


def play_until(deadline: float, think: float, data: str, base: str, seed: int, load: Load) -> None:
    rng = random.Random(seed)
    env = InterCodeEnv(data=data, base=base)
    tasks = env.panel("train").tasks
    while time.monotonic() < deadline:
        try:
            env.reset(options={"task": rng.choice(tasks)})
            for action in (*rng.sample(LOOKS, 2), env.item.gold if env.item else "", "submit"):
                time.sleep(think)
                _, score, _, _, info = env.step(action)
            with load.lock:
                load.episodes += 1
                load.scores.append(score)
                if info["failure"]:
                    load.failures.append(info["failure"])
        except Exception as error:  # counted and shown: a benchmark of robustness ends with a figure, not a traceback
            with load.lock:
                load.failures.append(repr(error))
    env.close()


def own_memory() -> float:
    """Resident memory of this process, MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / MIB


def sandboxes_memory() -> int:
    """MiB of shared memory in use on the machine, which holds all sandboxes' files."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Shmem:"):
            return int(line.split()[1]) // 1024
    return 0


def mounts() -> int:
    """Mounts that this process sees."""
    return len(Path("/proc/self/mountinfo").read_text().splitlines())


def own_sandboxes() -> int:
    """Running sandboxes of this process."""
    from leap_ray.envs.intercode.sandbox import owner

    return sum(who == owner() for _, who in reaper.sandboxes())


def print_alone(alone: dict[str, list[float]]) -> None:
    table = Table("one sandbox", "median ms", "90 % below, ms")
    for name, times in alone.items():
        ordered = sorted(times)
        table.add_row(
            name.replace("_", " "),
            f"{statistics.median(times) * 1e3:.1f}",
            f"{ordered[int(0.9 * len(ordered))] * 1e3:.1f}",
        )
    Console().print(table)


def print_load(load: Load, count: int) -> None:
    table = Table(f"{count} sandboxes at once, s", "own memory MiB", "shared memory MiB", "mounts", "sandboxes")
    for sample in load.samples[:: max(1, len(load.samples) // 8)]:
        table.add_row(*(f"{value:.0f}" for value in sample))
    console = Console()
    console.print(table)
    console.print(f"{load.episodes} episodes, {len(load.failures)} failures {load.failures[:3]}")


if __name__ == "__main__":
    main()
