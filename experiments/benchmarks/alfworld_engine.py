"""Our ALFWorld engine against the stock one: the same games, the same actions, every answer compared.

Stock is alfworld's `get_environment("AlfredTWEnv")` with one environment in this process (`batch_size=1`), its list of games
set to ours. Half of the games are played by their walkthrough, half by random admissible actions, all with invalid actions in
between. Both sides' load and reset are timed, in CPU seconds of this process (both are single-threaded).

Ours is timed three times, each time as if the process had just started, but for imports:

- cold: no translation on disk yet (the first time ever that a game is played)
- cached: translations on disk, nothing in memory; the headline `ratio`
- memory: the same games again in the same process
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from leap_ray.envs.alfworld.data import LAYOUT, SPLITS, TYPES, data_folder, find_games, prepare
from leap_ray.envs.alfworld.engine import forget_games
from leap_ray.envs.alfworld.env import AlfworldEnv
from leap_ray.errors import UserError
from leap_ray.types import Task

INVALID = ("fly to the moon", "take apple 99 from nowhere 1", "", "put apple 1 in/on fridge 1", "go to", "open")
NEIGHBOUR = Path(__file__).parents[3] / "shared" / "data" / "alfworld"


@dataclass
class Args:
    """Compare our ALFWorld engine with the stock one."""

    data: Path | None = None
    """Folder of games, or of *.tar.xz of them; default: $ALFWORLD_DATA if it has games, else ../shared/data/alfworld."""
    games: int = 54
    """How many games, spread evenly over the six task types."""
    random_actions: int = 12
    """Random admissible actions in a game of the random half."""
    seed: int = 0


@dataclass
class Answer:
    """What an engine says after a reset or a step."""

    observation: str
    candidates: tuple[str, ...]
    score: float
    won: bool


@dataclass
class Play:
    """One game with the actions done in it and stock's answers, the first one after reset."""

    task: Task
    style: str  # "expert" or "random"
    script: list[str]
    actions: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)


@dataclass
class Clock:
    """CPU seconds spent."""

    starting: float = 0.0
    stepping: float = 0.0
    episodes: int = 0
    steps: int = 0

    @property
    def rate(self) -> float:
        """Environment steps per CPU second, load and reset included."""
        return self.steps / (self.starting + self.stepping)

    def start(self, call: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = call()
        self.starting += time.process_time() - began
        self.episodes += 1
        return result

    def step(self, call: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = call()
        self.stepping += time.process_time() - began
        self.steps += 1
        return result


def main(args: Args) -> None:
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        folder = find_folder(args.data, Path(scratch) / "data")
        plays = choose(folder, args, Path(scratch) / "index")
        console.print(f"{len(plays)} games of {folder}: stock first, a few seconds each")
        with console.status("stock") as status:
            stock = play_stock(folder, plays, lambda done: status.update(f"stock: {done} of {len(plays)} games"))
        clocks, mismatches = {"stock": stock}, 0
        for name in ("cold", "cached", "memory"):
            if name != "memory":
                forget_games()
            clocks[name], wrong = play_ours(folder, plays, Path(scratch) / "cache")
            mismatches += report_wrong(console, name, wrong)
    console.print(table(clocks))
    console.print(
        "steps/s: environment steps per CPU second, load and reset included\n"
        "cold: no translation on disk yet; cached (the headline ratio): translations on disk, nothing in memory;\n"
        "memory: the same games again in the same process"
    )
    ratios = {name: round(clock.rate / stock.rate, 1) for name, clock in clocks.items()}
    figures = {
        "ratio": ratios["cached"],
        "ratio_cold": ratios["cold"],
        "ratio_memory": ratios["memory"],
        "mismatches": mismatches,
        "games": len(plays),
        "steps": stock.steps,
        "task_types": len({play.task.kind for play in plays}),
        "stock_steps_per_second": round(stock.rate, 1),
        "steps_per_second": round(clocks["cached"].rate, 1),
    }
    print(json.dumps(figures))


def find_folder(given: Path | None, target: Path) -> Path:
    """A data folder with games: the given one, the configured one, or the neighbour's archives unpacked to `target`."""
    if given is None:
        with contextlib.suppress(UserError):
            find_games(None, target.parent / "index")
            return data_folder(None)
        given = NEIGHBOUR
    return Path(prepare(given, target, cache=target.parent / "index").folder)


def choose(folder: Path, args: Args, cache: Path) -> list[Play]:
    """As many games of each type, from all splits there are; half of each type for either style."""
    games, rng, plays = find_games(folder, cache), random.Random(args.seed), []
    for number, kind in enumerate(TYPES):
        ids = sorted(i for i, k in games.kinds.items() if k == kind)
        count = args.games // len(TYPES) + (number < args.games % len(TYPES))
        if count > len(ids):
            raise UserError(f"{folder} has {len(ids)} games of {kind}; {count} are needed for --games {args.games}")
        for place, task_id in enumerate(rng.sample(ids, count)):
            panel = next(split for split in SPLITS if task_id.startswith(f"{split}/"))
            task = Task("alfworld", task_id, panel, kind)
            style = ("expert", "random")[place % 2]
            plays.append(Play(task, style, script(games.path(task), style, rng, args.random_actions)))
    return plays


def script(path: Path, style: str, rng: random.Random, count: int) -> list[str]:
    """The actions of a game; "?" and a number stand for a random admissible action, drawn when its turn comes."""
    if style == "expert":
        actions = list(json.loads((path / "game.tw-pddl").read_bytes())["walkthrough"])
    else:
        actions = [f"?{rng.random()}" for _ in range(count)]
    for place in sorted(rng.sample(range(len(actions)), 2)):
        actions.insert(place, rng.choice(INVALID))
    return actions


def drawn(action: str, candidates: tuple[str, ...]) -> str:
    """The action itself, or the candidate that a random mark points at."""
    return candidates[int(float(action[1:]) * len(candidates))] if action.startswith("?") else action


def stock_environment(folder: Path, plays: list[Play]) -> Any:
    """alfworld's own text environment, without the walk over all files that its construction begins with."""
    from alfworld.agents.environment import get_environment

    nothing = str(folder / "no such split")
    config = {
        "env": {
            "goal_desc_human_anns_prob": 0,
            "task_types": [1, 2, 3, 4, 5, 6],
            "domain_randomization": False,
            "expert_type": "handcoded",
        },
        "dataset": {"data_path": nothing, "eval_id_data_path": nothing, "num_train_games": 0, "num_eval_games": 0},
        "general": {"training_method": "dagger"},
        "dagger": {"training": {"max_nb_steps_per_episode": 1000}},
    }
    alfred: Any = get_environment("AlfredTWEnv")(config, train_eval="eval_in_distribution")
    alfred.game_files = [str(game_file(folder, play)) for play in plays]
    return alfred.init_env(batch_size=1)


def game_file(folder: Path, play: Play) -> Path:
    return folder / LAYOUT / play.task.id / "game.tw-pddl"


def play_stock(folder: Path, plays: list[Play], told: Callable[[int], None]) -> Clock:
    """Play every game on stock and keep its answers; stock chooses the order."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        environment = stock_environment(folder, plays)
    by_file, clock = {str(game_file(folder, play)): play for play in plays}, Clock()
    for done in range(len(plays)):
        told(done)
        observations, infos = clock.start(environment.reset)
        play = by_file.pop(infos["extra.gamefile"][0])
        play.answers.append(stock_answer(observations, [0], infos))
        for mark in play.script:
            action = drawn(mark, play.answers[-1].candidates)
            observations, scores, dones, infos = clock.step(lambda action=action: environment.step([action]))
            play.actions.append(action)
            play.answers.append(stock_answer(observations, scores, infos))
            if dones[0]:
                break
    return clock


def stock_answer(observations: Any, scores: Any, infos: Any) -> Answer:
    won = bool(infos["won"][0])
    return Answer(observations[0], tuple(infos["admissible_commands"][0]), float(scores[0] or 0), won)


def play_ours(folder: Path, plays: list[Play], cache: Path) -> tuple[Clock, list[str]]:
    """Replay every game; returns the time and a line for each answer that differs from stock's."""
    environment, clock, wrong = AlfworldEnv(data=str(folder), cache=str(cache)), Clock(), []
    for play in plays:
        for turn, answer in enumerate(our_answers(environment, play, clock)):
            if answer != play.answers[turn]:
                wrong.append(f"{play.task.id} turn {turn}: {answer} instead of {play.answers[turn]}")
    environment.close()
    return clock, wrong


def our_answers(environment: AlfworldEnv, play: Play, clock: Clock) -> Iterator[Answer]:
    observation, info = clock.start(lambda: environment.reset(options={"task": play.task}))
    yield Answer(observation, info["candidates"], info["score"], info["success"])
    for action in play.actions:
        observation, _, done, _, info = clock.step(lambda action=action: environment.step(action))
        assert done == info["success"]
        yield Answer(observation, info["candidates"], info["score"], info["success"])


def report_wrong(console: Console, name: str, wrong: list[str]) -> int:
    for line in wrong[:5]:
        console.print(f"{name}: {line}", markup=False)
    return len(wrong)


def table(clocks: dict[str, Clock]) -> Table:
    result = Table("engine", "episodes", "steps", "load+reset ms", "step ms", "steps/s", "ratio")
    for name, clock in clocks.items():
        start, step = 1e3 * clock.starting / clock.episodes, 1e3 * clock.stepping / clock.steps
        ratio = clock.rate / clocks["stock"].rate
        cells = (clock.episodes, clock.steps, f"{start:.1f}", f"{step:.2f}", f"{clock.rate:.1f}", f"{ratio:.1f}")
        result.add_row(name, *map(str, cells))
    return result


if __name__ == "__main__":
    main(tyro.cli(Args))
