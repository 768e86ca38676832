"""The three kinds of episode behind one interface: start, act, stop."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from leap_ray.envs.intercode import python_tasks, sql
from leap_ray.envs.intercode.backend import Backend, Kind
from leap_ray.envs.intercode.bash import GoldResults, Outcome, Quoting, Session, judge
from leap_ray.envs.intercode.bash_reward import Score, State
from leap_ray.envs.intercode.data import Item, TaskSet
from leap_ray.envs.intercode.reaper import reap_once
from leap_ray.envs.intercode.sandbox import Sandbox, SandboxError, Unjudgeable
from leap_ray.envs.intercode.trees import Tree
from leap_ray.errors import EnvironmentFault, UserError
from leap_ray.types import digest

SUBMIT, SKIP = "submit", "skip"
SKIPPED = "skipped"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Result:
    """What one action came to."""

    observation: str
    valid: bool = True
    executed: bool = True  # it ran without failing
    over: bool = False
    score: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""  # why the episode ended before its time


class Game(Protocol):
    """Plays one episode after another. `actions` are those of the present one, `answer` its last full observation."""

    actions: list[str]
    answer: str

    @property
    def runs_on(self) -> str:
        """What commands run on, in words: it decides what some of them print."""
        ...

    def start(self, item: Item) -> str: ...

    def act(self, action: str) -> Result: ...

    def stop(self) -> None: ...

    def gold_output(self, item: Item) -> str: ...

    def standing(self) -> float:
        """The score that `submit` would give now, 0 where it could give none."""
        ...


def open_game(tasks: TaskSet, *, quoting: Quoting, backend: Kind, base: str, engine: str) -> Game:
    """The game for a set of tasks."""
    if tasks.language == "sql":
        return SqlGame(tasks, engine)
    reap_once()
    if tasks.language == "python":
        return PythonGame(Backend(backend, base))
    return BashGame(tasks, Backend(backend, base), quoting)


GOLD = GoldResults()  # shared by all environments of a process


class BashGame:
    """Commands in a sandbox with the task's file system."""

    def __init__(self, tasks: TaskSet, backend: Backend, quoting: Quoting) -> None:
        self.tasks, self.backend = tasks, backend
        self.quoting: Quoting = quoting
        self.actions: list[str] = []
        self.answer = ""
        self._session: Session | None = None
        self._item: Item | None = None

    @property
    def runs_on(self) -> str:
        return f"{self.backend.name}: {self.backend.note}"

    def start(self, item: Item) -> str:
        self.stop()
        self.actions, self.answer, self._item = [], item.query, item
        self._session = Session(self.backend.open(self._tree(item)), self.quoting)
        return "The shell is ready in /."

    def act(self, action: str) -> Result:
        session, item = self._session, self._item
        assert session is not None and item is not None
        if action == SKIP:
            return Result(SKIPPED, over=True)
        if action.startswith(SUBMIT):
            score = self._score()
            return Result(self.answer, over=True, score=score.total, parts=score.parts)
        self.actions.append(action)
        outcome: Outcome = session.execute(action)
        self.answer = outcome.text
        return Result(outcome.text, valid=outcome.ran, executed=outcome.succeeded)

    def stop(self) -> None:
        if self._session is not None:
            self._session.sandbox.close()
            self._session = None

    def standing(self) -> float:
        with contextlib.suppress(Unjudgeable):
            return self._score().total
        return 0.0

    def gold_output(self, item: Item) -> str:
        return self._gold(item).answer or ""

    def _score(self) -> Score:
        assert self._session is not None and self._item is not None
        gold = self._gold(self._item)  # first: where this fails the machine is at fault, and not what the student left
        return judge(self._session, self.answer, gold)

    def _gold(self, item: Item) -> State:
        tree = self._tree(item)
        contents = self.backend.contents(tree)
        return GOLD.get(item.gold, contents, self.quoting, lambda: self.backend.open(tree))

    def _tree(self, item: Item) -> Tree:
        return self.tasks.trees[item.kind]


class SqlGame:
    """Statements on a database of the task's dump."""

    def __init__(self, tasks: TaskSet, engine: str) -> None:
        self.tasks, self.engine = tasks, engine
        self.actions: list[str] = []
        self.answer = ""
        self._last = sql.Answer(None)
        self._database: sql.Database | None = None
        self._item: Item | None = None
        self._gold: dict[str, sql.Answer] = {}

    @property
    def runs_on(self) -> str:
        return urlsplit(self.engine).scheme or self.engine

    def start(self, item: Item) -> str:
        self.stop()
        self.actions, self.answer, self._item = [], "", item
        self._last = sql.Answer(None)
        self._database = sql.connect(self.engine, self.tasks.dump, item.kind)
        return f"You are connected to the database {item.kind}."

    def act(self, action: str) -> Result:
        assert self._database is not None
        if action == SKIP:
            return Result(SKIPPED, over=True)
        if action.startswith(SUBMIT):
            score = self.standing()
            return Result(self.answer, over=True, score=score, parts={"rows": score})
        self.actions.append(action)
        self._last = self._database.execute(action)
        self.answer = self._last.text
        return Result(self.answer, executed=not self._last.error)

    def stop(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def standing(self) -> float:
        assert self._item is not None
        return sql.score(self._last, self._gold_answer(self._item))

    def gold_output(self, item: Item) -> str:
        return self._gold_answer(item).text

    def _gold_answer(self, item: Item) -> sql.Answer:
        key = digest(item.kind, item.gold)
        if key not in self._gold:
            database = sql.connect(self.engine, self.tasks.dump, item.kind)
            try:
                answer = database.execute(item.gold)
            finally:
                database.close()
            if answer.exhausted:  # not kept: a machine that is busy enough makes any statement too slow
                raise EnvironmentFault(f"the gold statement of {item.id} took more than it may: {answer.error}")
            if answer.error:
                raise UserError(
                    f"intercode: the gold statement of {item.id} does not run on {self.engine}: {answer.error}"
                )
            self._gold[key] = answer
        return self._gold[key]


NOTHING = Tree("empty", ())


class PythonGame:
    """Pieces of a program in a sandbox's interpreter."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.actions: list[str] = []
        self.answer = ""
        self._session: python_tasks.PythonSession | None = None
        self._item: Item | None = None
        self._gold: dict[str, list[dict[str, str]]] = {}

    @property
    def runs_on(self) -> str:
        return f"{self.backend.name}: {self.backend.note}"

    def start(self, item: Item) -> str:
        self.stop()
        self.actions, self.answer, self._item = [], "", item
        self._session = python_tasks.PythonSession(self.backend.open(NOTHING))
        return "The interpreter is ready."

    def act(self, action: str) -> Result:
        assert self._session is not None and self._item is not None
        if action == SKIP:
            return Result(SKIPPED, over=True)
        if action.startswith(SUBMIT):
            return self._submit(action)
        self.actions.append(action)
        result = self._session.execute(action)
        self.answer = str(result)
        return Result(self.answer, executed=not result.get("error"))

    def _submit(self, action: str) -> Result:
        """`submit <function>`; without a name, the function that was defined last."""
        assert self._session is not None and self._item is not None
        named = python_tasks.SUBMITTED.match(action)
        defined = [name for code in self._session.history for name in python_tasks.FUNCTION.findall(code)]
        name = named[1] if named else (defined or [""])[-1]
        score = self._score(name) if name else 0.0
        return Result(self.answer, over=True, score=score, parts={"tests": score})

    def stop(self) -> None:
        if self._session is not None:
            self._session.sandbox.close()
            self._session = None

    def standing(self) -> float:
        assert self._item is not None
        return self._score(python_tasks.function_name(self._item))

    def _score(self, name: str) -> float:
        assert self._session is not None and self._item is not None
        return python_tasks.score(self._session.test(name, self._item), self._gold_results(self._item))

    def _gold_results(self, item: Item) -> list[dict[str, str]]:
        key = digest(item.gold, item.setup, list(item.tests))
        if key not in self._gold:
            fresh: Sandbox = self.backend.open(NOTHING)
            try:
                results = python_tasks.gold_results(fresh, item)
            finally:
                fresh.close()
            if not python_tasks.passed(results):  # not kept: a machine that is busy enough makes any solution too slow
                raise SandboxError(f"the gold solution of {item.id} does not pass its own tests here: {results}")
            self._gold[key] = results
        return self._gold[key]

    def gold_output(self, item: Item) -> str:
        return ""


def visible(text: str, most: int) -> str:
    """An output as the student sees it: control characters written out, and at most `most` characters, from both ends."""
    plain = CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    if len(plain) <= most:
        return plain
    tail = most // 3
    left_out = len(plain) - most
    return f"{plain[: most - tail]}\n[... {left_out} characters left out ...]\n{plain[len(plain) - tail :]}"
