"""InterCode as an environment of LEAP: an action is a command (bash), a statement (SQL) or a piece of a program (Python).

An episode is one task in a place of its own. Actions run until `submit`, which ends the episode and is the only one that scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from leap_ray.envs.base import Expert, PrivilegedState, Secret, TextEnv, task_of
from leap_ray.envs.intercode.backend import Kind
from leap_ray.envs.intercode.bash import Quoting
from leap_ray.envs.intercode.data import EMBEDDED, Item, Language, Split, load
from leap_ray.envs.intercode.experts import expert
from leap_ray.envs.intercode.games import Game, Result, open_game, visible
from leap_ray.envs.intercode.sandbox import Unjudgeable
from leap_ray.envs.intercode.spelling import spelling
from leap_ray.envs.intercode.words import readings
from leap_ray.errors import EnvironmentFault, PrivilegeError, UserError
from leap_ray.tasks import Panel
from leap_ray.types import Task

FACTS: dict[Language, str] = {
    "bash": (
        "You work on a Linux machine through bash. Each action is one command on one line, run in a new shell in the present "
        "folder; `cd` alone moves you. The output of your last command is your answer. `submit` ends the task."
    ),
    "sql": (
        "You work on a database through SQL. Each action is one statement; SHOW TABLES and DESC <table> tell what there is. "
        "The rows that your last statement gives are your answer. `submit` ends the task."
    ),
    "python": (
        "You work in a Python interpreter. Each action is a piece of code: define the function that the task asks for, try it "
        "out, then say `submit <name of the function>`, which ends the task."
    ),
}
NAMES: dict[Language, str] = {"bash": "bash", "sql": "SQL", "python": "Python"}
ACTIONS: dict[Language, int] = {"bash": 10, "sql": 15, "python": 10}  # (authors)
SPOILT = "The machine you worked on cannot be judged any more."
PERFECT = 1.0 - 1e-9


class InterCodeEnv(TextEnv):
    """Bash, SQL or Python tasks (InterCode; LEAP, section 4.3).

    Settings: `language`; `data` ("embedded", a folder, or None: the prepared folder where it exists, else embedded);
    `split` of the tasks into "train" and "test"; `quoting` of bash commands ("docker" as in the original, or "plain");
    `backend` and `base` of the sandboxes; `engine` of SQL ("sqlite", or "mysql://user@host:port" with MYSQL_PWD in the
    environment); `shown`, the most characters of an output that the student sees.
    """

    domain = "intercode"
    threshold = 0.7  # (authors)
    max_actions = ACTIONS["bash"]
    blocking = True
    path_settings: ClassVar[Mapping[str, tuple[str, ...]]] = {"data": (EMBEDDED,), "base": ("auto", "host")}
    language: Language = "bash"

    @classmethod
    def aliases(cls, text: str) -> tuple[str, ...]:
        """A program read aloud."""
        return readings(text)

    def __init__(
        self,
        language: Language | None = None,
        data: str | None = None,
        split: Split = "index",
        quoting: Quoting = "docker",
        backend: Kind = "auto",
        base: str = "auto",
        engine: str = "sqlite",
        shown: int = 1500,
    ) -> None:
        super().__init__()
        self.language = language or self.language
        self.tasks = load(data, self.language)
        self.domain_facts = FACTS[self.language]
        self.max_actions = ACTIONS[self.language]
        self.multiline = self.language == "python"
        self.shown = shown
        self._choose_split(split, quoting)
        self._items = {item.id: item for item in self.tasks.items}
        self._game: Game = open_game(self.tasks, quoting=quoting, backend=backend, base=base, engine=engine)
        self.item: Item | None = None
        self._over = True

    def _choose_split(self, split: Split, quoting: Quoting) -> None:
        if split not in ("index", "apart"):
            raise UserError(f"intercode: split {split!r} is neither index nor apart")
        if quoting not in ("docker", "plain"):
            raise UserError(f"intercode: quoting {quoting!r} is neither docker nor plain")
        self._split = self.tasks.split(split)

    def panel(self, name: str) -> Panel:
        """The panel "train" or "test"."""
        if name not in self._split:
            raise UserError(f"intercode: there is no panel {name!r}: {', '.join(self._split)}")
        return Panel.of(self.domain, name, [Task(self.domain, i.id, name, i.kind) for i in self._split[name]])

    def provenance(self, panel: Panel | None = None) -> dict[str, str]:
        """The content of tasks and of what they are set in, since ids are positions in a file, and what commands run on."""
        return {"tasks": self.tasks.digest, "runs on": self._game.runs_on}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """A fresh machine (or connection, or interpreter) for `options["task"]`. `seed` changes nothing: tasks are fixed.

        Raises EnvironmentFault where none can be had.
        """
        task = task_of(options)
        if task.id not in self._items:
            raise UserError(f"intercode: there is no {self.language} task {task.id!r}")
        self.task, self.item, self._over = task, self._items[task.id], False
        observation = self._game.start(self.item)
        return visible(observation, self.shown), self._info(Result(observation))

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Run the action; `submit` judges the episode.

        Raises EnvironmentFault where the episode was lost without the student's doing (sandbox, server, gold command); what the
        student did to its own machine is a result, named in info["failure"].
        """
        if self.item is None or self._over:
            raise UserError("intercode: step was called outside an episode: call reset first")
        try:
            result = self._game.act(action) if action.strip() else Result("", valid=False)
        except Unjudgeable as error:
            result = Result(SPOILT, over=True, failure=str(error))
        except EnvironmentFault:
            self.close()
            raise
        self._over = result.over
        if self._over:
            self._game.stop()
        info = {**self._info(result), "action": self.spelling(action)}
        return visible(result.observation, self.shown), info["score"], result.over, False, info

    def spelling(self, action: str) -> str:
        """Without what does not change it: see `spelling.py`."""
        return spelling(action, self.language)

    def _info(self, result: Result) -> dict[str, Any]:
        assert self.item is not None
        return {
            "instruction": self.item.query,
            "candidates": (),
            "score": result.score,
            "success": result.score >= PERFECT,
            "valid": result.valid,
            "executed": result.executed,
            "score_parts": dict(result.parts),
            "failure": result.failure,
        }

    @property
    def game(self) -> Game:
        """The live game, for experts."""
        return self._game

    def _privileged(self) -> PrivilegedState:
        assert self.item is not None
        return privileged_state(self.domain, self.item, self._game.gold_output(self.item), self.language)

    def expert(self, kind: str, *, privilege: float = 0.5, seed: int = 0) -> Expert:
        """See `experts.py`."""
        if self.task is None or self.item is None:
            raise UserError("intercode: an expert was asked for before reset")
        training = self.task.panel in self.train_panels
        if kind == "teacher" and privilege > 0 and not training:
            raise PrivilegeError(f"intercode: a teacher with privilege {privilege:g} serves training panels only")
        return expert(kind, self.item, self._game, privilege=privilege, knows_gold=training)

    def close(self) -> None:
        """End what runs. Safe to call more than once."""
        self._over = True
        self._game.stop()


class SqlEnv(InterCodeEnv):
    """InterCode's SQL tasks as a domain of their own, so that one run can hold them beside the bash tasks."""

    domain = "intercode-sql"
    language = "sql"
    max_actions = ACTIONS["sql"]


class PythonEnv(InterCodeEnv):
    """InterCode's Python tasks as a domain of their own."""

    domain = "intercode-python"
    language = "python"
    multiline = True


def privileged_state(domain: str, item: Item, output: str, language: Language) -> PrivilegedState:
    """The gold command and what it gives (LEAP, section 4.3)."""
    proof = f"Its output:\n{visible(output, 2000)}"
    if language == "python":
        proof = "The tests it must pass:\n" + "\n".join(item.tests)
    rendering = f"A solution of the task in {NAMES[language]}:\n{item.gold}\n{proof}"
    return PrivilegedState(domain, item.id, rendering, secrets(item, output), {"gold": item.gold, "output": output})


def secrets(item: Item, output: str) -> tuple[Secret, ...]:
    """Strings a reason must not hold: the gold, each of its lines, and each line of its output that the task does not name."""
    lines = [item.gold, *item.gold.splitlines(), *output.splitlines()[:50], *item.tests]
    kept = (line.strip() for line in lines)
    texts = dict.fromkeys(line for line in kept if len(line) > 5 and line not in item.query)
    return tuple(Secret("code", text) for text in texts)
