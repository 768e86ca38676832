"""Two hundred failed episodes, a third of all attempts failing, and everything killed on the way: is every step accounted for?

Failed episodes of generated households are corrected by the Claude teacher against a local server that speaks the real protocol.
The driver is killed with -9 twice, with calls under way. In the end every step must have one outcome, no call may be paid
twice, and the ledger must equal the server's own books to the cent. Batches are tried the same way.

    python experiments/benchmarks/teacher_faults.py --episodes 200 --share 0.3
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pickle
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.benchmarks.anthropic_server import AnthropicServer, Faults
from leap_ray.config import DomainConfig, TeacherConfig
from leap_ray.envs.base import PrivilegedState, make_env
from leap_ray.teachers.build import build_teacher
from leap_ray.teachers.store import read_ledger
from leap_ray.types import Correction, Episode, Finish, Step, from_json, to_json

ROOT = Path(__file__).parents[2]
KEY = "protocol-server-key"
DOMAIN = DomainConfig("households")
TIMEOUT = 10.0  # seconds; a busy machine takes some for an answer that was sent, and charged, in time


def failed_episodes(count: int, steps: int, seed: int = 0) -> list[tuple[Episode, PrivilegedState]]:
    """Episodes of an aimless student, with words it cannot use among its actions."""
    rng, env = random.Random(seed), make_env(DOMAIN.name, DOMAIN.settings)
    found = []
    for task in env.resolve_panel(DOMAIN.train_panel).sample(count, seed).tasks:
        observation, info = env.reset(options={"task": task})
        played = []
        while len(played) < steps and not info["success"]:
            action = rng.choice([*info["candidates"], "", "dance"])
            before, candidates = observation, info["candidates"]
            observation, _, _, _, info = env.step(action)
            played.append(Step(before, candidates, "I try this.", action, bool(action) and info["valid"], 0.0, action))
        episode = Episode(
            task, seed, "base", info["instruction"], tuple(played), observation, 0.0, False, Finish.MAX_ACTIONS
        )
        found.append((episode, env.privileged()))
    env.close()
    return found


async def drive(folder: Path, url: str, mode: Any) -> None:
    """The process that is killed: corrects what has no correction yet."""
    config = TeacherConfig(kind="claude", base_url=url, timeout=TIMEOUT, mode=mode, batch_quiet=0.5)
    teacher = build_teacher(config, [DOMAIN], folder / "teacher")
    path = folder / "corrections.jsonl"
    known = {correction.episode for correction in _corrections(path)}
    with open(path, "a") as file:  # noqa: ASYNC230  a line now and then

        async def one(episode: Episode, state: PrivilegedState) -> None:
            correction = await teacher.correct(episode, state)
            file.write(to_json(correction) + "\n")
            file.flush()

        episodes = pickle.loads((folder / "episodes.pickle").read_bytes())
        await asyncio.gather(*(one(episode, state) for episode, state in episodes if episode.id not in known))
    await teacher.close()  # type: ignore[attr-defined]


def _corrections(path: Path) -> list[Correction]:
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(from_json(Correction, line))
        except ValueError:
            continue  # torn by a kill
    return found


async def run(arguments: argparse.Namespace, mode: str, folder: Path) -> dict[str, Any]:
    """Start drivers until one gets to the end; the first ones are killed."""
    environment = {**os.environ, "ANTHROPIC_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
    episodes = failed_episodes(arguments.episodes, arguments.steps)
    (folder / "episodes.pickle").write_bytes(pickle.dumps(episodes))
    faults = Faults(arguments.share)
    began = time.monotonic()
    async with AnthropicServer(
        key=KEY, faults=faults, latency=(0.1, 0.4), hang=1.5 * TIMEOUT, batch_seconds=3.0, batch_faults=arguments.share
    ) as server:
        command = [sys.executable, __file__, "--drive", str(folder), server.url, mode]
        kills = 0
        while True:
            driver = await asyncio.create_subprocess_exec(*command, env=environment)
            goal = len(server.books.billed) + arguments.episodes // 4
            while driver.returncode is None:
                await asyncio.sleep(0.05)
                under_way = len(server.batches) > kills if mode == "batch" else len(server.books.billed) >= goal
                if kills < 2 and under_way:
                    driver.kill()
                    kills += 1
                    await driver.wait()
            if driver.returncode == 0:
                break
            if kills == 0 or driver.returncode > 0:
                raise SystemExit(f"the driver ended with {driver.returncode}")
        stats = server.books.stats()
    return {
        **_account([e for e, _ in episodes], folder, stats),
        "kills": kills,
        "seconds": round(time.monotonic() - began, 1),
    }


def _account(episodes: list[Episode], folder: Path, stats: dict[str, Any]) -> dict[str, Any]:
    corrections = {correction.episode: correction for correction in _corrections(folder / "corrections.jsonl")}
    steps = sum(len(episode.steps) for episode in episodes)
    words = [word for episode in episodes for word in corrections[episode.id].steps]
    ledger = sum(row["dollars"] for row in read_ledger(folder / "teacher"))
    return {
        "episodes": len(corrections),
        "steps": steps,
        "steps_without_a_word": steps - len(words),
        "outcomes": dict(Counter(str(word.outcome) for word in words)),
        "calls": stats["calls"],
        "attempts": stats["attempts"],
        "paid_twice": stats["paid_twice"],
        "ledger_dollars": round(ledger, 6),
        "server_dollars": round(stats["dollars"], 6),
        "difference": round(ledger - stats["dollars"], 6),
        "failures": stats["failures"],
    }


def main() -> None:
    if sys.argv[1:2] == ["--drive"]:
        folder, url, mode = sys.argv[2:]
        asyncio.run(drive(Path(folder), url, mode))
        return
    parser = argparse.ArgumentParser(description="The Claude teacher under faults and kills.")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--share", type=float, default=0.3, help="of attempts that fail")
    arguments = parser.parse_args()
    results = {}
    table = Table(title=f"{arguments.episodes} failed episodes, {arguments.share:.0%} of attempts failing, two kills")
    for column in ("mode", "steps", "without a word", "calls", "paid twice", "ledger $", "server $", "seconds"):
        table.add_column(column, justify="right")
    for mode in ("live", "batch"):
        with tempfile.TemporaryDirectory() as folder:
            row = results[mode] = asyncio.run(run(arguments, mode, Path(folder)))
        names = ("steps", "steps_without_a_word", "calls", "paid_twice", "ledger_dollars", "server_dollars", "seconds")
        table.add_row(mode, *(str(row[name]) for name in names))
    Console().print(table)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
