"""ALFWorld as an environment: real games (`alfworld`) and generated ones (`households`), on one engine.

Candidate actions are the engine's admissible commands, all of them and in stock's order, `help`, `look`, `inventory` and
`examine …` included: the authors' evaluation shows the student exactly that list. The first observation, too, is stock's own.
Only the panel `train` serves privileged state; `valid_train`, although cut from the training houses, is for evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from leap_ray.envs.alfworld.data import Games, find_games
from leap_ray.envs.alfworld.engine import AlfworldEngine
from leap_ray.envs.alfworld.household_files import generator_files
from leap_ray.envs.alfworld.households import REAL, SIZES, VERSION, Game, make_game
from leap_ray.envs.alfworld.privileged import GameSecrets
from leap_ray.envs.alfworld.words import synonyms
from leap_ray.envs.alfworld.world import KINDS
from leap_ray.envs.base import Expert, PrivilegedState, TextEnv, task_of
from leap_ray.errors import UserError
from leap_ray.tasks import Panel
from leap_ray.types import Task, digest

_TASK = re.compile(r"Your task is to: (.*)")
_NAMES = re.compile(r"[a-z]+ \d+")
_COMMAND = re.compile(
    r"(?:go to|take|move|open|close|use|heat|cool|clean|slice|examine) (.+?)(?: (?:from|to|with) (.+))?"
)
_STRANGE = re.compile(r"[^a-z0-9 /]")


def normalise(action: str) -> str:
    """An action as the authors read it: the first line, lower case, nothing but a-z, 0-9, space and slash."""
    lines = action.strip().splitlines()
    return _STRANGE.sub("", lines[0].lower()).strip() if lines else ""


class AlfworldEnv(TextEnv):
    """ALFWorld's own text games.

    Settings: `data`, the folder that holds `json_2.1.1` (default: $ALFWORLD_DATA, then ~/.cache/alfworld), and `cache`, the
    folder for translations and the index (default: $LEAP_RAY_CACHE, then ~/.cache/leap-ray). Raises UserError if the games are
    not there.
    """

    domain: ClassVar[str] = "alfworld"
    # Of alfworld 0.4 and later; published exemplars say "put X in/on Y": mixing the two ruins success.
    path_settings: ClassVar[Mapping[str, tuple[str, ...]]] = {"data": (), "cache": ()}
    grammar_dialect: ClassVar[str] = "move X to Y"
    domain_facts = (
        "The agent is in a household and acts by short text commands. It sees what is on or in a receptacle only after going "
        "there, and inside a closed one only after opening it. It can hold one object at a time. Objects are heated with a "
        "microwave, cooled with a fridge and cleaned with a sinkbasin, while held. A lamp is used where it stands, with the "
        "object in hand. `move X to Y` puts a held object in or on a receptacle."
    )

    @classmethod
    def aliases(cls, text: str) -> tuple[str, ...]:
        """What people call an instance's kind."""
        return synonyms(text)

    def __init__(self, *, data: str | None = None, cache: str | None = None) -> None:
        super().__init__()
        self.cache = Path(cache).expanduser() if cache else None
        self.engine = AlfworldEngine(self.cache)
        self.instruction = ""
        self._at_reset: frozenset[tuple[str, ...]] = frozenset()
        self._open(data)

    def _open(self, data: str | None) -> None:
        self._games: Games = find_games(data, self.cache)

    def panel(self, name: str) -> Panel:
        """train, valid_seen, valid_unseen or valid_train. Raises UserError for another, or for one without games."""
        return self._games.panel(name)

    def provenance(self, panel: Panel | None = None) -> dict[str, str]:
        """The content of the games' files."""
        return {"games": self._games.content(panel.tasks if panel else self._games.tasks)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start `options["task"]`. Games are deterministic: the seed changes nothing."""
        task = task_of(options)
        self._load(task)
        observation = self.engine.reset()
        self.task = task
        found = _TASK.search(observation)
        self.instruction = found.group(1).strip() if found else ""
        self._at_reset = self.engine.facts() if task.panel in self.train_panels else frozenset()
        return observation, self._info()

    def _load(self, task: Task) -> None:
        """Bring the task's game into the engine. Raises UserError if its panel does not hold it."""
        self.engine.load(self._games.path(task))

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Do an action. The reward is the change of the score, so it is 1 once, when the task is done."""
        if self.task is None:
            raise UserError(f"{self.domain}: step() was called before reset()")
        before = self.score
        command = self.spelling(action)
        valid = command in self.engine.admissible
        observation = self.engine.step(command)
        info = {**self._info(), "valid": valid, "action": command}
        return observation, self.score - before, self.engine.won, False, info

    def spelling(self, action: str) -> str:
        """The command that the engine is given."""
        return normalise(action)

    def knows(self, action: str) -> bool:
        """Whether the command is admissible now."""
        return self.spelling(action) in self.engine.admissible

    def cause(self, action: str) -> str:
        """Unknown verbs, names that the game does not hold, things that are elsewhere; what is left is said too early or late."""
        command = _COMMAND.fullmatch(self.spelling(action))
        if not command:
            return "no such command"
        named = {name for name in command.groups() if name}
        if not named <= self.engine.names:
            return "no such thing or place"
        here = {name for known in self.engine.admissible for name in _NAMES.findall(known)}
        return "wrong order" if named <= here else "not here"

    @property
    def score(self) -> float:
        """1 when the task is done, else 0."""
        return float(self.engine.won)

    def _info(self) -> dict[str, Any]:
        return {
            "instruction": self.instruction,
            "candidates": self.engine.admissible,
            "score": self.score,
            "success": self.engine.won,
        }

    def _privileged(self) -> PrivilegedState:
        assert self.task is not None
        return GameSecrets.of(self._at_reset, self.engine.metadata, self.engine.name_of).state(self.task)

    def expert(self, kind: str, *, privilege: float = 0.5, seed: int = 0) -> Expert:
        """demonstrator, teacher, oracle or planner: see leap_ray.envs.alfworld.experts."""
        from leap_ray.envs.alfworld import experts

        return experts.make(kind, self, privilege=privilege, seed=seed)

    def close(self) -> None:
        self.engine.close()
        self.task = None


class HouseholdsEnv(AlfworldEnv):
    """Generated ALFWorld games: the same engine, domain, grammar and room inventories, no download.

    Settings: `sizes`, the size dial's values that a panel mixes (number of receptacles and objects); `counts`, tasks per panel;
    `cache` as above. A task's id says everything needed to make its game: "train/heat-s2-000123" is the panel, the task type,
    the size and the number, which is unique in its panel; panels draw their seeds from ranges that never meet.
    """

    domain: ClassVar[str] = "households"
    SEEDS: ClassVar[Mapping[str, int]] = {"train": 0, "valid": 1_000_000, "test": 2_000_000}  # first seed of each panel
    COUNTS: ClassVar[Mapping[str, int]] = {"train": 1200, "valid": 120, "test": 240}

    def __init__(
        self, *, sizes: Sequence[int] = (2,), counts: Mapping[str, int] | None = None, cache: str | None = None
    ) -> None:
        self.sizes = tuple(sizes)
        self.counts = {**self.COUNTS, **(counts or {})}
        if unknown := set(self.counts) - set(self.SEEDS):
            raise UserError(
                f"households: counts: unknown panel {', '.join(sorted(unknown))}; known are {', '.join(self.SEEDS)}"
            )
        if any(not 0 < count <= 1_000_000 for count in self.counts.values()):
            raise UserError(f"households: counts must be from 1 to 1,000,000, got {self.counts}")
        if not self.sizes or any(size not in range(1, REAL + 1) for size in self.sizes):
            raise UserError(f"households: sizes must be whole numbers from 1 to {REAL}, got {sizes!r}")
        super().__init__(cache=cache)

    def _open(self, data: str | None) -> None:
        self._panels: dict[str, Panel] = {}

    def panel(self, name: str) -> Panel:
        """train, valid or test: task types take turns, and sizes after each round of them."""
        if name not in self.SEEDS:
            raise UserError(f"households has no panel {name!r}: known are {', '.join(self.SEEDS)}")
        if name not in self._panels:
            self._panels[name] = Panel.of(self.domain, name, [self._task(name, i) for i in range(self.counts[name])])
        return self._panels[name]

    def provenance(self, panel: Panel | None = None) -> dict[str, str]:
        """What a task's id is made into a game by: the generator's version, its tables and alfworld's own files."""
        return {"games": f"generator {VERSION}, {digest(SIZES, self.SEEDS, generator_files())}"}

    def _task(self, panel: str, number: int) -> Task:
        short, kind = list(KINDS.items())[number % len(KINDS)]
        size = self.sizes[number // len(KINDS) % len(self.sizes)]
        return Task(self.domain, f"{panel}/{short}-s{size}-{number:06d}", panel, kind)

    def _load(self, task: Task) -> None:
        number = task.id.rsplit("-", 1)[-1]
        counts = self.counts.get(task.panel, 0)
        if not number.isdecimal() or int(number) >= counts or self._task(task.panel, int(number)).id != task.id:
            self.panel(task.panel).task(task.id)  # raises, naming the panel
        _, short, size, seed = re.split("/|-s|-", task.id)
        files = _generated(self.SEEDS[task.panel] + int(seed), KINDS[short], int(size))
        self.engine.load(files.game, files.metadata)


@lru_cache(maxsize=64)
def _generated(seed: int, kind: str, size: int) -> Game:
    return make_game(seed, kind, size)
