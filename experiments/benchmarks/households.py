"""Generated households beside real ALFWorld games: size, words, candidate actions, and how the experts fare.

One column of real training games, one for each size of the dial; size 5 is meant to be like the real ones. Every game is played
on the real engine by the demonstrator (explores, knows only what it saw), by alfworld's handcoded explorer and by the oracle
(facts), the latter once more after random actions. Times are wall milliseconds of this process; `load` includes translation,
except for real games that were translated before.
"""

from __future__ import annotations

import itertools
import json
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.benchmarks.alfworld_engine import find_folder
from leap_ray.envs.alfworld import inventories
from leap_ray.envs.alfworld.data import find_games
from leap_ray.envs.alfworld.engine import AlfworldEngine, read_game
from leap_ray.envs.alfworld.experts import Demonstrator, Oracle
from leap_ray.envs.alfworld.handcoded import Handcoded
from leap_ray.envs.alfworld.households import REAL, make_game
from leap_ray.envs.alfworld.world import KINDS, World, kind_of
from leap_ray.envs.base import Expert
from leap_ray.errors import UserError

Source = Iterable[Callable[[], tuple[dict[str, Any], dict[str, Any]]]]  # makes game.tw-pddl and traj_data.json
LIMITS = (20, 30, 50)  # actions: the official evaluation's, its configuration's, ReAct's


@dataclass
class Args:
    """Show generated and real games side by side."""

    data: Path | None = None
    """Folder of real games, or of archives of them; default: $ALFWORLD_DATA if it has games, else ../shared/data/alfworld."""
    real: int = 60
    """Real training games."""
    games: int = 60
    """Games of each size."""
    sizes: tuple[int, ...] = (1, 2, 3, 4, REAL)
    random_actions: int = 15
    """Random actions before the oracle takes over."""
    seed: int = 0


def main(args: Args) -> None:
    console = Console()
    columns: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            folder = find_folder(args.data, Path(scratch) / "data")
            columns["real"] = real_games(folder, args.real, seed=args.seed)
        except UserError as error:
            console.print(f"no real games to compare with: {error}")
        for size in args.sizes:
            columns[f"size {size}"] = generated_games(size, args.games, seed=args.seed)
        figures = {
            name: look_at(track(source, name, console=console), Path(scratch) / "cache", args.random_actions)
            for name, source in columns.items()
        }
    console.print(_table(figures))
    print(json.dumps({name: {k: round(v, 4) for k, v in row.items()} for name, row in figures.items()}))


def real_games(folder: Path, count: int, *, seed: int, panel: str = "train") -> Source:
    """A sample of the panel's games, spread over the task types."""
    games = find_games(folder, folder / "cache")
    paths = [games.path(task) for task in games.panel(panel).sample(count, seed).tasks]
    return [lambda path=path: read_game(path) for path in paths]


def generated_games(size: int, count: int, *, seed: int = 0) -> Source:
    """Households of one size, the task types in turn."""

    def made(number: int, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
        game = make_game(9_000_000 + seed * count + number, kind, size)
        return game.game, game.metadata

    turns = itertools.islice(itertools.cycle(KINDS), count)
    return [lambda number=number, kind=kind: made(number, kind) for number, kind in enumerate(turns)]


def look_at(source: Source, cache: Path, random_actions: int = 15) -> dict[str, float]:
    """The figures of one column, means over its games unless the name says otherwise."""
    rows: dict[str, list[float]] = defaultdict(list)
    types: set[str] = set()
    for number, make in enumerate(source):
        engine = AlfworldEngine(cache)
        before = time.perf_counter()
        files = make()
        made = time.perf_counter()
        engine.load(*files)
        engine.reset()
        rows["make_ms"].append((made - before) * 1000)
        rows["load_ms"].append((time.perf_counter() - made) * 1000)
        types |= _describe(engine, rows)
        _explore(engine, rows, "demonstrator", Demonstrator(engine))
        engine.reset()
        _explore(engine, rows, "handcoded", Handcoded(engine, task=str(number), seed=0))
        _ask_oracle(engine, rows, 0, random.Random(number))
        _ask_oracle(engine, rows, random_actions, random.Random(number))
    known = {t.lower() for room in inventories.load().rooms.values() for t in (*room.receptacles, *room.objects)}
    known |= {t.lower() for t in inventories.load().traits}
    return {
        "games": len(rows["places"]),
        **{name: mean(values) for name, values in rows.items()},
        "types": len(types),
        "types_unknown": len(types - known),
    }


def _describe(engine: AlfworldEngine, rows: dict[str, list[float]]) -> set[str]:
    """Count a game's places and things; returns the types of all of them."""
    world = World.of(engine.facts())
    rows["places"].append(len(world.spots))
    rows["things"].append(len(world.inside))
    rows["first_observation"].append(len(engine.observation))
    return {kind_of(name) for name in (*world.spots, *world.inside)}


def _explore(engine: AlfworldEngine, rows: dict[str, list[float]], name: str, expert: Expert) -> None:
    """Let an expert that has to look for things play, and note how it went and what there was to read."""
    steps = 0
    for action in _decisions(engine, expert, max(LIMITS), rows[f"{name}_ms"]):
        rows["candidates"].append(len(engine.admissible))
        engine.step(action)
        rows["observation"].append(len(engine.observation))
        steps += 1
    for limit in LIMITS:
        rows[f"{name}_won_{limit}"].append(engine.won and steps <= limit)
    if engine.won:
        rows[f"{name}_steps"].append(steps)


def _ask_oracle(engine: AlfworldEngine, rows: dict[str, list[float]], disturbed: int, rng: random.Random) -> None:
    engine.reset()
    for _ in range(disturbed):
        if not engine.won:
            engine.step(rng.choice(engine.admissible))
    steps, name = 0, "oracle_disturbed" if disturbed else "oracle"
    for action in _decisions(engine, Oracle(engine), max(LIMITS), rows["oracle_ms"]):
        engine.step(action)
        steps += 1
    rows[f"{name}_won"].append(engine.won)
    if engine.won:
        rows[f"{name}_steps"].append(steps)


def _decisions(engine: AlfworldEngine, expert: Expert, limit: int, clock: list[float]) -> Iterator[str]:
    """An expert's actions until the game is won, it has no plan, or the limit is reached."""
    for _ in range(limit):
        if engine.won:
            return
        before = time.perf_counter()
        advice = expert.advise()
        clock.append((time.perf_counter() - before) * 1000)
        if advice is None:
            return
        yield advice.action


def _table(figures: dict[str, dict[str, float]]) -> Table:
    table = Table("figure", *figures, title="Households and real ALFWorld games")
    for name in next(iter(figures.values())):
        style = "{:.0%}" if "_won" in name else "{:.0f}" if name in ("games", "types", "types_unknown") else "{:.1f}"
        if name.endswith("_ms"):
            style = "{:.2f}"
        table.add_row(name.replace("_", " "), *(style.format(row[name]) for row in figures.values()))
    return table


if __name__ == "__main__":
    main(tyro.cli(Args))
